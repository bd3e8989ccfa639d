"""Streams of replies: read at the reader's pace, written message by message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from google.protobuf.message import Message

from server.errors import DeadlineExceededError, UnavailableError
from server.gateway.frames import Frames
from server.gateway.http import Send, reply_headers
from server.gateway.rendering import Renderer
from server.interceptors.call import CallError
from server.interceptors.status import status_of

FIRST_S = 0.25
"""How long the first message, or an error, is waited for before the status line goes out as 200."""

_LATE = DeadlineExceededError("the deadline passed while the stream was open; call again, with a longer grpc-timeout or with none")
_STOPPING = UnavailableError("server", "is stopping; call again")


async def paced(
    replies: AsyncGenerator[Message, None], *, idle_s: float, until: float | None, stopping: asyncio.Event
) -> AsyncGenerator[Message | None, None]:
    """Yields the replies, each taken only when the one before has been written, and None whenever none came for a while.

    Closing it closes `replies`, which cancels the call.

    Args:
        replies: Of a call that has been opened.
        idle_s: None is yielded after so long without a reply; the first time after `FIRST_S` already.
        until: End of the call's time on the clock of `time.monotonic()`; None for no end.
        stopping: Set when the server stops.

    Raises:
        CallError: The call failed, its time is up, or the server stops.
    """
    stop = asyncio.create_task(stopping.wait())
    patience_s = min(FIRST_S, idle_s)
    coming: asyncio.Future[Message | None] | None = None
    async with aclosing(replies):
        try:
            while True:
                coming = asyncio.ensure_future(anext(replies, None))
                while not coming.done():
                    left_s = patience_s if until is None else min(patience_s, until - time.monotonic())
                    if left_s > 0:
                        await asyncio.wait({coming, stop}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                    if coming.done():
                        break
                    if stop.done() or left_s < patience_s:
                        raise CallError(status_of(_STOPPING if stop.done() else _LATE))
                    patience_s = idle_s
                    yield None
                reply = coming.result()
                if reply is None:
                    return
                yield reply
                patience_s = idle_s
        finally:
            stop.cancel()
            if coming is not None and not coming.done():
                coming.cancel()
                await asyncio.wait({coming})


class StreamWriter:
    """Writes one HTTP reply, a chunk a message.

    `send` returns when the connection has room, so a slow reader holds the call back.

    Args:
        send: Of ASGI.
        frames: How to write messages.
        headers: Of the reply; read when the first frame goes out.
    """

    def __init__(self, send: Send, frames: Frames, headers: dict[str, str]) -> None:
        self._send = send
        self._frames = frames
        self._headers = headers
        self.begun = False
        """Whether the status line went out."""

    async def write(self, replies: AsyncGenerator[Message | None, None], renderer: Renderer) -> None:
        """Writes all replies, as `paced` yields them, and ends the stream."""
        async with aclosing(replies):
            async for reply in replies:
                if reply is not None and renderer.raw and not self.begun:
                    self._frames.content_type = renderer.content_type(reply)
                await self._write(self._frames.idle if reply is None else self._frames.message(renderer.text(reply)))
        await self._write(self._frames.end(), more=False)

    async def fail(self, error_text: bytes) -> None:
        """Ends the stream with an error.

        Raises:
            TruncatedError: The framing has no place for one; the connection must be broken off.
        """
        await self._write(self._frames.error(error_text), more=False)

    async def _write(self, part: bytes, *, more: bool = True) -> None:
        if not self.begun:
            self.begun = True
            headers = {"cache-control": "no-store", "vary": "accept", "x-accel-buffering": "no", **self._headers}
            await self._send({"type": "http.response.start", "status": 200, "headers": reply_headers(self._frames.content_type, headers)})
            part = self._frames.start() + part
        if part or not more:
            await self._send({"type": "http.response.body", "body": part, "more_body": more})
