"""A relay between a server and one of its parts, which can be made slow or deaf."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_CHUNK_BYTES = 64 * 1024


class Relay:
    """Passes bytes both ways. `delay_s` holds up what goes to the part; while `deaf`, nothing passes and connections stay open."""

    def __init__(self, target: str | Path) -> None:
        """`target`: HOST:PORT, or the path of a unix socket."""
        self.delay_s = 0.0
        self._target = target
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def deaf(self) -> bool:
        """Whether nothing passes, as if a cable had been pulled: no end sees the other go."""
        return not self._passing.is_set()

    @deaf.setter
    def deaf(self, value: bool) -> None:
        if value:
            self._passing.clear()
        else:
            self._passing.set()

    @asynccontextmanager
    async def on_port(self) -> AsyncIterator[str]:
        """Yields the HOST:PORT on which it listens."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with self._closing(server):
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    @asynccontextmanager
    async def on_socket(self, path: Path) -> AsyncIterator[None]:
        """Listens on a unix socket."""
        async with self._closing(await asyncio.start_unix_server(self._serve, path)):
            yield

    @asynccontextmanager
    async def _closing(self, server: asyncio.Server) -> AsyncIterator[None]:
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._passing.wait()
            if isinstance(self._target, Path):
                there_reader, there_writer = await asyncio.open_unix_connection(self._target)
            else:
                host, _, port = self._target.rpartition(":")
                there_reader, there_writer = await asyncio.open_connection(host, int(port))
            try:
                ways = [
                    asyncio.create_task(self._pass(reader, there_writer, slow=True)),
                    asyncio.create_task(self._pass(there_reader, writer, slow=False)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
            finally:
                there_writer.close()
        except (OSError, asyncio.CancelledError):
            pass  # the part is down, or the stage is being cleared: the caller sees a closed connection
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if slow and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._passing.wait()
                writer.write(chunk)
                await writer.drain()
