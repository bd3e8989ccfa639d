"""Several serving processes on one machine, sharing the doors' ports."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from server.errors import FailedPreconditionError
from server.telemetry import logger

_LOOK_EVERY_S = 0.1
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 30.0
"""A process that lived this long had started well, in seconds."""
_ATTEMPTS = 3
"""Starts in a row that may fail before the first process has started well."""
_READY_S = 180.0
"""Seconds within which a process that shall replace another must serve: it loads the catalogues first."""
_HUNG_S = 10.0
"""Seconds past its time after which a process that shall end is killed."""
_PR_SET_PDEATHSIG = 1
_log = logger(__name__)


class _Worker:
    """One process."""

    def __init__(self, name: str) -> None:
        """Starts it as the event worker of that name, which resumes at once the stream entries that its predecessor left unfinished."""
        self.name = name
        self.since = time.monotonic()
        self._ready = False
        self._news, told = os.pipe()
        os.set_blocking(self._news, False)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server", "serve", "--replica-of", str(os.getpid()), "--ready-fd", str(told)],
            env={**os.environ, "AISLE_WORKER_NAME": name},
            process_group=0,  # a terminal's Ctrl-C goes to the parent alone, which passes it on once
            pass_fds=[told],
        )
        os.close(told)

    @property
    def steady(self) -> bool:
        """Whether it has lived long enough to have started well."""
        return time.monotonic() - self.since >= _STEADY_S

    def ready(self) -> bool:
        """Returns whether it serves: its doors listen and its health says so."""
        try:
            self._ready = self._ready or os.read(self._news, 1) != b""
        except BlockingIOError:
            return False
        return self._ready

    def code(self) -> int | None:
        """Returns its exit code, None while it runs."""
        return self.process.poll()

    def close(self) -> None:
        """Forgets a process that ended."""
        os.close(self._news)


class _Replica:
    """One place among the processes: who fills it, and when it is filled again."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.failures = 0
        self.start_at = 0.0
        self.worker: _Worker | None = None
        name = f"{os.environ.get('AISLE_WORKER_NAME') or os.uname().nodename}-{place}"
        # Two living processes may not share a name, so one that replaces another has the second, and its own successor the first.
        self._names = (name, f"{name}-b")

    def start(self) -> None:
        """Fills the place."""
        self.worker = _Worker(self._names[0])

    def successor(self) -> _Worker:
        """Starts who shall take the place that another holds."""
        return _Worker(self._names[1])

    def hand_over(self, worker: _Worker) -> _Worker | None:
        """Gives the place to its successor; returns who held it, if that one lives."""
        held, self.worker = self.worker, worker
        self._names = self._names[::-1]
        self.failures = 0
        return held

    @property
    def steady(self) -> bool:
        """Whether its process has lived long enough to have started well."""
        return self.worker is not None and self.worker.steady

    def look(self) -> int | None:
        """Returns the exit code of a process that ended since the last look, after setting when the next one starts."""
        if self.worker is None or (code := self.worker.code()) is None:
            return None
        self.failures = 1 if self.steady else self.failures + 1
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self.failures - 1))
        self.start_at = time.monotonic() + pause_s
        self.worker.close()
        self.worker = None
        _log.warning("worker ended, starting another", worker=self.place, code=code, restart_in_s=pause_s)
        return code


class _Family:
    """All processes of a command: those that hold the places, and those that come or go while workers are replaced."""

    def __init__(self, count: int, *, leaving_s: float) -> None:
        self.replicas = [_Replica(place) for place in range(count)]
        self._leaving_s = leaving_s
        self._coming: _Worker | None = None
        self._going: _Worker | None = None

    @property
    def alive(self) -> list[_Worker]:
        """Whoever was started and has not been seen to end."""
        return [one for one in (*(replica.worker for replica in self.replicas), self._coming, self._going) if one is not None]

    def replace(self) -> Iterator[None]:
        """Replaces one worker after another, a look at a step. Ends early where a new one does not serve: then the old ones go on."""
        for replica in self.replicas:
            self._coming = coming = replica.successor()
            until = coming.since + _READY_S
            while not coming.ready() and coming.code() is None and time.monotonic() < until:
                yield
            if not coming.ready():
                code = coming.code()
                why = "did not become ready in time" if code is None else f"ended with {_exit_code(code)}"
                _log.error("a new worker does not serve; the old ones go on, see the lines above", worker=replica.place, reason=why)
                coming.process.kill()
                while coming.code() is None:
                    yield
                coming.close()
                self._coming = None
                return
            self._going, self._coming = replica.hand_over(coming), None
            if self._going is not None:
                yield from self._gone(self._going)
                self._going = None
            _log.info("worker replaced", worker=replica.place)
        _log.info("all workers replaced")

    def _gone(self, going: _Worker) -> Iterator[None]:
        """Tells a process that its clients shall leave, and lasts until it ended."""
        going.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + self._leaving_s + _HUNG_S
        while going.code() is None:
            if time.monotonic() >= until:
                _log.error("a replaced worker hangs and is killed", pid=going.process.pid)
                going.process.kill()
                going.process.wait()
            yield
        going.close()


def run_replicas(count: int, addresses: Sequence[str], *, leaving_s: float) -> int:
    """Runs `count` processes of `aisle serve` until a stop signal, which each gets. SIGHUP replaces them one after another.

    One that dies is started again, after pauses that double while it does not stay up. If none ever did, it gives up.

    Args:
        count: Processes.
        addresses: Of the doors.
        leaving_s: Seconds that a replaced process may take to let its clients go and end.

    Returns:
        The exit code: 0 if all drained and ended well.

    Raises:
        FailedPreconditionError: An address leaves the port open, so that each process would choose its own.
    """
    for address in addresses:
        if address.endswith(":0"):
            raise FailedPreconditionError(f"{address}: several workers share a port, so name one instead of 0")
    stopping: list[int] = []
    renewals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    signal.signal(signal.SIGHUP, lambda received, _frame: renewals.append(received))
    family = _Family(count, leaving_s=leaving_s)
    code = _keep(family, stopping, renewals)
    return max(code, _stop(family, stopping))


def end_with(parent: int) -> None:
    """Has the kernel send this process SIGTERM, so that it drains, when the process that started it is gone, however it went."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it went before
        sys.exit(1)


def _keep(family: _Family, stopping: Sequence[int], renewals: list[int]) -> int:
    """Keeps the places filled until a signal comes; returns 0 then, or the code of a process that does not start."""
    started_well = False
    renewal: Iterator[None] = iter(())
    while not stopping:
        for replica in family.replicas:
            started_well = started_well or replica.steady
            code = replica.look()
            if code is not None and replica.failures >= _ATTEMPTS and not started_well:
                _log.error("workers do not start; see the lines above", worker=replica.place, code=code, attempts=replica.failures)
                return _exit_code(code) or 1
            if replica.worker is None and time.monotonic() >= replica.start_at and not stopping:
                replica.start()
        if next(renewal, True) and renewals:
            renewals.clear()  # those that came while workers were being replaced ask for one more time
            renewal = family.replace()
        time.sleep(_LOOK_EVERY_S)
    return 0


def _stop(family: _Family, stopping: Sequence[int]) -> int:
    """Has all drain, passing on a second signal, and returns the worst exit code."""
    alive = [worker.process for worker in family.alive]
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
