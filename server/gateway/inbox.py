"""What a client sends while its call is answered, and its leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from google.protobuf.message import Message

from server.errors import AisleError, InvalidFieldError
from server.gateway.http import Disconnected, Receive
from server.interceptors.call import CallError, Said
from server.interceptors.status import status_of

_Answer = TypeVar("_Answer")

_WAITING = 4
"""Messages read ahead of the handler. Past them the connection is not read, so that a client cannot fill memory."""


async def unless(answer: Awaitable[_Answer], watch: Callable[[], Awaitable[None]], *, after_s: float = 0.0) -> _Answer:
    """Returns the answer, or cancels it and raises what `watch` raises first. A `watch` that returns has no effect.

    Args:
        answer: What is waited for.
        watch: Runs beside it.
        after_s: Seconds after which `watch` begins. What is answered sooner does without a task of its own for it.
    """
    this, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert this is not None
    faults: list[Exception] = []
    watchers: list[asyncio.Task[None]] = []

    async def watching() -> None:
        try:
            await watch()
        except Exception as fault:  # noqa: BLE001  # raised again by the caller's task
            faults.append(fault)
            this.cancel()

    def begin() -> None:
        watchers.append(loop.create_task(watching()))

    timer = loop.call_later(after_s, begin) if after_s else None
    if timer is None:
        begin()
    try:
        return await answer
    except asyncio.CancelledError:
        if faults and this.uncancel() == 0:
            raise faults[0] from None
        raise
    finally:
        if timer is not None:
            timer.cancel()
        for watcher in watchers:
            watcher.cancel()


async def until_disconnected(receive: Receive) -> None:
    """Waits for the client's leaving.

    Raises:
        Disconnected: It left.
    """
    while (await receive())["type"] not in {"http.disconnect", "websocket.disconnect"}:
        pass
    raise Disconnected


async def said(texts: AsyncGenerator[bytes, None], bind: Callable[[bytes], Message], what: str) -> AsyncGenerator[Said, None]:
    """Yields the message of each text, or why it is none; that names the text's number, from 1, by `what` it is. Raises as `texts`."""
    number = 0
    async with aclosing(texts):
        async for text in texts:
            number += 1
            try:
                yield bind(text)
            except InvalidFieldError as error:
                yield CallError(status_of(InvalidFieldError(error.field, f"{error.description} (in {what} {number})")))
            except AisleError as error:
                yield CallError(status_of(error))


class Inbox:
    """Messages of a client's stream, read ahead a little.

    Args:
        source: Yields them.
        receive: Of ASGI; watched once the source has ended.
    """

    def __init__(self, source: AsyncIterator[Said], receive: Receive) -> None:
        self._source = source
        self._receive = receive
        self._waiting: asyncio.Queue[Said | None] = asyncio.Queue(_WAITING)

    async def watch(self) -> None:
        """Reads until the client leaves. To be run beside the call, which whatever it raises shall end.

        Raises:
            Disconnected: The client left.
        """
        async for message in self._source:
            await self._waiting.put(message)
        await self._waiting.put(None)
        await until_disconnected(self._receive)

    async def messages(self) -> AsyncIterator[Said]:
        """Yields the messages."""
        while (message := await self._waiting.get()) is not None:
            yield message
