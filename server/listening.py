"""Listening sockets that other processes share, and how one of them leaves without losing a connection."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_SO_ATTACH_FILTER = 26
_ARRIVED_S = 0.25
"""Seconds in which a connection that had begun is through its handshake and accepted: a round trip, and a busy loop's turn."""
_LOOK_EVERY_S = 0.05
# Classic BPF, an instruction as (code, jump if true, jump if false, constant). What it sees begins with the TCP header.
_WITHOUT_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x45, 0, 1, 0x02),  # is SYN set?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # take
)


def listeners(port: int) -> list[socket.socket]:
    """Returns handles of the TCP sockets with which this process listens on a port, whoever in it opened them. Close them after use."""
    found = []
    for handle in _sockets():
        if handle.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and handle.getsockname()[1] == port:
            found.append(handle)
        else:
            handle.close()
    return found


def connections(port: int) -> int:
    """Returns how many connections of others to a port of this process are open."""
    count = 0
    for handle in _sockets():
        with handle:
            try:
                handle.getpeername()
            except OSError:  # not connected
                continue
            count += handle.getsockname()[1] == port
    return count


def _sockets() -> list[socket.socket]:
    """Returns handles of all TCP sockets of this process."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not stat.S_ISSOCK(entry.stat().st_mode):
                continue
            handle = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:  # closed meanwhile
            continue
        if handle.family in {socket.AF_INET, socket.AF_INET6} and handle.type == socket.SOCK_STREAM:
            found.append(handle)
        else:
            handle.close()
    return found


async def turn_away(handles: Sequence[socket.socket]) -> None:
    """Has new connections go to other sockets that listen on the same port, and returns when those that had begun are accepted.

    Ending a listening socket resets the connections that wait in its queue. So before it, first packets are dropped for a quarter of a
    second: the kernels of those who sent them try again after a second, and reach another socket by then. End these sockets at once.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in _WITHOUT_SYN))
    for handle in handles:
        with suppress(OSError):  # a kernel without such filters: connections that come in this quarter of a second may be reset
            handle.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_WITHOUT_SYN), ctypes.addressof(program)))
    await asyncio.sleep(_ARRIVED_S)


async def all_gone(connected: Callable[[], int], *, within_s: float) -> None:
    """Returns when nobody is connected any more, or after `within_s` seconds."""
    until = asyncio.get_running_loop().time() + within_s
    while connected() and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110  # the kernel tells nobody
        await asyncio.sleep(_LOOK_EVERY_S)
