"""The process between Aisle and one embedded server: it makes sure that nothing of that server outlives Aisle.

Run as a script (`python -I guard.py ORDER`), so it imports nothing of Aisle and starts in milliseconds. It forks the server, then waits for
the first of three things: the server ends, Aisle closes its end of the control pipe (a stop, or Aisle's death by any signal), or SIGTERM.

`PR_SET_PDEATHSIG` alone does not do: it is tied to the thread that forked, is lost when the user id changes, and grandchildren (Triton's
model processes, Postgres's backends, which open sessions of their own) do not inherit it. The guard is a *subreaper*: orphaned descendants
become its children, so it finds and ends them all. Should the guard itself be killed, the server's `PR_SET_PDEATHSIG` fires.

ORDER is JSON: `argv`, `control_fd`, `lock_fd` (-1: none), `parent`, `stop_signal`, `grace_s`, `uid`, `gid` (-1: unchanged).
"""

# ruff: noqa: PTH123, PTH208, S606, T201  # a script of its own: importing pathlib would double its start, and it has no logger

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2

_PARENT_POLL_S = 1.0
"""How often the parent's life is checked by its id, in case another process inherited the pipe and holds it open, in seconds."""

_libc = ctypes.CDLL(None, use_errno=True)


def keep_reach(uid: int, gid: int) -> None:
    """Becomes `uid`, keeping of root's powers only that of reading on: the venv and the data folder may lie below a private home.

    PostgreSQL refuses to run as root. Without the capability (some containers drop it) the folders must be readable by `uid`.
    """
    _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        sets = (ctypes.c_uint32 * 6)(1 << capability, 1 << capability, 1 << capability, 0, 0, 0)
        if _libc.capset(header, sets) == 0:
            _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)
            return


def _become_server(order: dict[str, Any], guard: int) -> NoReturn:
    """Replaces this fork by the server. Exits 127 when it cannot be started."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.nice(order["step"])
        if order["uid"] >= 0:
            keep_reach(order["uid"], order["gid"])
        # After the change of user, which clears it.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:
            os._exit(127)
        os.execv(order["argv"][0], order["argv"])
    except OSError as error:
        print(f"cannot start {order['argv'][0]}: {error}", file=sys.stderr, flush=True)
    os._exit(127)


def _children() -> list[int]:
    """Returns the ids of this process's children, orphans it adopted included."""
    me = os.getpid()
    with contextlib.suppress(OSError), open(f"/proc/{me}/task/{me}/children", encoding="ascii") as listing:
        return [int(child) for child in listing.read().split()]
    found = []  # Kernels built without CONFIG_PROC_CHILDREN.
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{int(entry)}/stat", encoding="utf-8") as stat:
            if int(stat.read().rpartition(")")[2].split()[1]) == me:
                found.append(int(entry))
    return found


def _reap(server: int) -> int | None:
    """Collects every dead child and returns the server's exit code once it is among them, negative for a signal."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                break
            if child == server:
                code = os.waitstatus_to_exitcode(status)
    return code


def _sweep() -> None:
    """Kills all descendants that are left. Each generation, orphaned by the death of the one above, becomes the guard's own."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def _watch(server: int, order: dict[str, Any]) -> int:
    """Waits for the server's end or for the word to end it, and returns its exit code."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopping = False

    def on_signal(number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = stopping or number == signal.SIGTERM

    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, on_signal)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    watched = [wake_read, order["control_fd"]]
    kill_at = float("inf")
    while True:
        code = _reap(server)
        if code is not None:
            return code
        if stopping and kill_at == float("inf"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, order["stop_signal"])
            kill_at = time.monotonic() + order["grace_s"]
        if time.monotonic() >= kill_at:
            return -signal.SIGKILL
        readable, _, _ = select.select(watched, [], [], min(_PARENT_POLL_S, max(0.0, kill_at - time.monotonic())))
        if wake_read in readable:
            os.read(wake_read, 512)
        if order["control_fd"] in readable or os.getppid() != order["parent"]:
            stopping = True
            watched = [wake_read]


def main() -> None:
    """Starts the server named by the order, and exits with its code after the last of its descendants."""
    order = json.loads(sys.argv[1])
    for descriptor in (order["control_fd"], order["lock_fd"]):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)  # noqa: FBT003  # the standard library's signature
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Aisle handles Ctrl-C and closes the pipe; the signals themselves must not end the guard first.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    guard = os.getpid()
    server = os.fork()
    if server == 0:
        _become_server(order, guard)
    code = _watch(server, order)
    _sweep()
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
