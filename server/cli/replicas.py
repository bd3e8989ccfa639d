"""Several serving processes on one machine, sharing the doors' ports."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from server.errors import FailedPreconditionError
from server.telemetry import logger

_LOOK_EVERY_S = 0.1
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 30.0
"""A process that lived this long had started well, in seconds."""
_ATTEMPTS = 3
"""Starts in a row that may fail before the first process has started well."""
_PR_SET_PDEATHSIG = 1
_log = logger(__name__)


class _Replica:
    """One place among the processes: who fills it, and when it is filled again."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.failures = 0
        self.start_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._since = 0.0

    def start(self) -> None:
        """Starts a process. Its name is its predecessor's, so that it resumes the stream entries left unfinished at once."""
        name = f"{os.environ.get('AISLE_WORKER_NAME') or os.uname().nodename}-{self.place}"
        self._since = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", "serve", "--replica-of", str(os.getpid())],
            env={**os.environ, "AISLE_WORKER_NAME": name},
            process_group=0,  # a terminal's Ctrl-C goes to the parent alone, which passes it on once
        )

    @property
    def steady(self) -> bool:
        """Whether its process has lived long enough to have started well."""
        return self.process is not None and time.monotonic() - self._since >= _STEADY_S

    def look(self) -> int | None:
        """Returns the exit code of a process that ended since the last look, after setting when the next one starts."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.failures = 1 if self.steady else self.failures + 1
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self.failures - 1))
        self.start_at = time.monotonic() + pause_s
        self.process = None
        _log.warning("worker ended, starting another", worker=self.place, code=code, restart_in_s=pause_s)
        return code


def run_replicas(count: int, addresses: Sequence[str]) -> int:
    """Runs `count` processes of `aisle serve` until a stop signal, which each gets.

    One that dies is started again, after pauses that double while it does not stay up. If none ever did, it gives up.

    Returns:
        The exit code: 0 if all drained and ended well.

    Raises:
        FailedPreconditionError: An address leaves the port open, so that each process would choose its own.
    """
    for address in addresses:
        if address.endswith(":0"):
            raise FailedPreconditionError(f"{address}: several workers share a port, so name one instead of 0")
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    replicas = [_Replica(place) for place in range(count)]
    code = _keep(replicas, stopping)
    return max(code, _stop(replicas, stopping))


def end_with(parent: int) -> None:
    """Has the kernel send this process SIGTERM, so that it drains, when the process that started it is gone, however it went."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it went before
        sys.exit(1)


def _keep(replicas: Sequence[_Replica], stopping: Sequence[int]) -> int:
    """Keeps the places filled until a signal comes; returns 0 then, or the code of a process that does not start."""
    started_well = False
    while not stopping:
        for replica in replicas:
            started_well = started_well or replica.steady
            code = replica.look()
            if code is not None and replica.failures >= _ATTEMPTS and not started_well:
                _log.error("workers do not start; see the lines above", worker=replica.place, code=code, attempts=replica.failures)
                return _exit_code(code) or 1
            if replica.process is None and time.monotonic() >= replica.start_at and not stopping:
                replica.start()
        time.sleep(_LOOK_EVERY_S)
    return 0


def _stop(replicas: Sequence[_Replica], stopping: Sequence[int]) -> int:
    """Has all drain, passing on a second signal, and returns the worst exit code."""
    alive = [replica.process for replica in replicas if replica.process is not None]
    told = -1
    while any(process.poll() is None for process in alive):
        if told < len(stopping):
            told = max(1, len(stopping))
            for process in alive:
                process.send_signal(signal.SIGTERM)
        time.sleep(_LOOK_EVERY_S)
    return max((_exit_code(process.returncode) for process in alive), default=0)


def _exit_code(code: int) -> int:
    """Returns a child's code as a shell gives it: 128 and the signal for one that a signal ended."""
    if code == -signal.SIGTERM:
        return 0  # it was told to end before it served, and had accepted nothing
    return code if code >= 0 else 128 - code
