"""uvicorn's HTTP/1.1 protocol with bounds on what a connection may take its time for, and the client's certificate."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.gateway.http import is_lines
from server.identity.certificates import names_of

MOST_HEAD_BYTES = 128 * 1024
"""Request line and headers. More is answered 431."""


@dataclass(slots=True)
class Exit:
    """Whether clients are asked to leave: every reply is the last of its connection."""

    open: bool = False


class _HeadTooLargeError(Exception):
    """Ends parsing."""


class _Joining:
    """A transport whose two writes of one turn of the loop are one.

    uvicorn writes head and body apart; each write would be a system call that wakes the client.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        """Returns what else transports have."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes with what is held, or holds until the loop's next turn."""
        if self._held:
            self._transport.writelines((self._held, data))
            self._held = b""
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Closes once everything is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = b""


class GuardedProtocol(HttpToolsProtocol):
    """A request must be whole within `read_s` seconds of its connection, or of its first byte on one that is kept alive.

    uvicorn bounds neither that time nor the size of headers: a few thousand connections that send a byte now and then would hold as many
    sockets for ever, and one that sends headers without end would fill the memory. A body of lines is a stream of requests, which may take
    as long as it is being answered; a WebSocket has its pings.
    """

    def __init__(self, *arguments: Any, read_s: float, exit: Exit, **named: Any) -> None:  # noqa: A002  # nothing here ends the process
        super().__init__(*arguments, **named)
        self._exit = exit
        self._read_s = read_s
        self._slow: asyncio.TimerHandle | None = None
        self._in_head = True
        self._whole = False
        self._head_bytes = 0
        self._too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it, too
        """Begins to count the time, and looks at the client's certificate."""
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", _Joining(transport, self.loop))
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert() if tls is not None else None
        if certificate:
            names = names_of(certificate.get("subject", ()), certificate.get("subjectAltName", ()))
            self.app_state = {**self.app_state, "certificate": names}
        self._slow = self.loop.call_later(self._read_s, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops counting."""
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses, and refuses a head that does not end."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(431, "The request's headers are too large.")

    def send_400_response(self, msg: str) -> None:
        """Refuses what cannot be parsed."""
        if self._too_large:
            self._refuse(431, "The request's headers are too large.")
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Counts the time of a request on a connection that was kept alive."""
        super().on_message_begin()
        self._in_head, self._whole, self._head_bytes = True, False, 0
        if self._slow is None:
            self._slow = self.loop.call_later(self._read_s, self._give_up)

    def on_headers_complete(self) -> None:
        """Refuses a head that came whole and is too large."""
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MOST_HEAD_BYTES:
            self._too_large = True
            raise _HeadTooLargeError
        self._in_head = False
        if any(name == b"content-type" and is_lines(value.decode("latin-1")) for name, value in self.headers):
            self._in_time()
        super().on_headers_complete()
        if self._exit.open:
            self.send_away()

    def send_away(self) -> None:
        """Has the reply under way, if it has not begun, say `connection: close`."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's types say
        if cycle is not None:
            cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Stops counting: from here on the deadline of the call counts."""
        self._in_time()
        self._whole = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Counts on where a stream of requests was answered before it ended."""
        super().on_response_complete()
        if not self._whole and self._slow is None and self.cycle.response_complete:
            self._slow = self.loop.call_later(self._read_s, self._give_up)

    def _in_time(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _give_up(self) -> None:
        self._slow = None
        if not self.transport.is_closing():
            self._refuse(408, "The request did not come in time.")

    def _refuse(self, status: int, text: str) -> None:
        """Answers, unless an answer has begun, and closes."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's types say
        if cycle is None or cycle.response_complete or not cycle.response_started:
            head = [STATUS_LINE[status], b"content-type: text/plain; charset=utf-8\r\n", b"connection: close\r\n"]
            head += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
            self.transport.write(b"".join([*head, f"content-length: {len(text)}\r\n\r\n{text}".encode()]))
        self.transport.close()
