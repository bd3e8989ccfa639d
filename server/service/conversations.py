"""Streams of batches: answered in the order in which they came, some at once, and ended in good order when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from server.errors import OverloadedError, UnavailableError
from server.telemetry import EVENT_STREAMS

AHEAD = 8
"""Batches of one stream that are read and whose answers are not yet taken. Past them the client is not read."""

_Batch = TypeVar("_Batch")
_Answer = TypeVar("_Answer")


class Conversations:
    """All streams of batches of this process."""

    def __init__(self, limit: int) -> None:
        """`limit`: Streams open at once."""
        self._limit = limit
        self._open = 0
        self._stopping = asyncio.Event()
        self._none_open = asyncio.Event()
        self._none_open.set()

    async def answers(
        self, batches: AsyncIterator[_Batch], answer: Callable[[_Batch], Awaitable[_Answer]]
    ) -> AsyncGenerator[_Answer, None]:
        """Yields the answer to each batch, in their order, up to `AHEAD` being made at once. Closing it cancels those.

        Args:
            batches: What the client sends. Read as answers are taken, so a client that takes none is not read.
            answer: Answers one batch; what it raises ends the stream.

        Raises:
            OverloadedError: Too many streams are open.
            UnavailableError: The server stops: what had been read is answered before.
        """
        if self._stopping.is_set():
            raise _stopped()
        if self._open >= self._limit:
            raise OverloadedError(
                f"{self._limit} streams of events are open (AISLE_MAX_EVENT_STREAMS); close some, or ask another replica", retry_after_s=5.0
            )
        self._open += 1
        self._none_open.clear()
        EVENT_STREAMS.inc()
        try:
            async with aclosing(_in_order(batches, answer, self._stopping)) as answered:
                async for one in answered:
                    yield one
        finally:
            EVENT_STREAMS.dec()
            self._open -= 1
            if not self._open:
                self._none_open.set()

    async def drain(self, timeout_s: float) -> None:
        """Takes no more, and lets open streams answer what they have read; returns when all have ended, or after `timeout_s` seconds."""
        self._stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._none_open.wait()


async def _in_order(
    batches: AsyncIterator[_Batch], answer: Callable[[_Batch], Awaitable[_Answer]], stopping: asyncio.Event
) -> AsyncGenerator[_Answer, None]:
    begun: asyncio.Queue[asyncio.Future[_Answer] | None] = asyncio.Queue()
    room = asyncio.Semaphore(AHEAD)

    async def read() -> None:
        try:
            while True:
                await room.acquire()  # before the read: what is not read is the client's to keep
                try:
                    batch = await anext(batches)
                except StopAsyncIteration:
                    return
                begun.put_nowait(asyncio.ensure_future(answer(batch)))
        finally:
            begun.put_nowait(None)

    async def stop() -> None:
        await stopping.wait()
        reader.cancel()

    reader = asyncio.create_task(read())
    stopper = asyncio.create_task(stop())
    coming: asyncio.Future[_Answer] | None = None
    try:
        while (coming := await begun.get()) is not None:
            yield await coming
            room.release()
        if stopping.is_set():
            raise _stopped()
        await reader
    finally:
        left: list[asyncio.Future[Any] | None] = [reader, stopper, coming]
        while not begun.empty():
            left.append(begun.get_nowait())
        unended = [one for one in left if one is not None]
        for one in unended:
            one.cancel()
        await asyncio.gather(*unended, return_exceptions=True)


def _stopped() -> UnavailableError:
    return UnavailableError("server", "is stopping; send what was not answered on another stream")
