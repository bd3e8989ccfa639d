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

_PR_SET_PDEATHSIG = 1
_PAUSE_S = 0.2
_RESTART_PAUSE_S = 1.0
_log = logger(__name__)


def run_replicas(count: int, addresses: Sequence[str]) -> int:
    """Runs `count` processes of `aisle serve` until a stop signal, which each gets; one that dies is started again.

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
    children = [_start(place) for place in range(count)]
    while not stopping:
        for place, child in enumerate(children):
            if child.poll() is not None and not stopping:
                _log.warning("worker died, starting another", worker=place, code=child.returncode)
                time.sleep(_RESTART_PAUSE_S)
                children[place] = _start(place)
        time.sleep(_PAUSE_S)
    for child in children:
        child.send_signal(signal.SIGTERM)
    # A child that had not come to serve yet is ended by the signal itself; it had accepted nothing.
    return max(0 if code == -signal.SIGTERM else abs(code) for code in [child.wait() for child in children])


def end_with(parent: int) -> None:
    """Has this process told to stop when the one that started it dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)  # it died before


def _start(place: int) -> subprocess.Popen[bytes]:
    # The same name after a restart lets the worker resume its own unfinished stream entries at once.
    name = f"{os.environ.get('AISLE_WORKER_NAME') or os.uname().nodename}-{place}"
    command = [sys.executable, "-m", "server", "serve", "--replica-of", str(os.getpid())]
    return subprocess.Popen(command, env={**os.environ, "AISLE_WORKER_NAME": name})
