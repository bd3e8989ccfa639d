"""A Redis of a test's own, to kill, stop and start again."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from server.embedded.redis import redis_server


class OwnRedis:
    """The embedded Redis with the settings Aisle gives it, but nobody who restarts it."""

    def __init__(self, folder: Path) -> None:
        (folder / "logs").mkdir(exist_ok=True)
        self._specification = redis_server(data_dir=folder, sockets=folder)
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"unix://{folder / 'redis.sock'}"

    async def start(self) -> None:
        """Starts it and waits until it answers."""
        self._specification.prepare()
        self._process = await asyncio.create_subprocess_exec(
            *self._specification.argv, env=dict(self._specification.environment), stdout=asyncio.subprocess.DEVNULL
        )
        while True:
            with suppress(OSError):
                if await self._specification.answers():
                    return
            await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """Ends it as `kill -9` does."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def pause(self) -> None:
        """Makes it hang: connections stay open, nothing answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Ends the pause."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)
