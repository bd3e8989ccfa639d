"""uvicorn inside the running event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn

from server.errors import UnavailableError
from server.gateway.http import AsgiApp
from server.gateway.protocol import Exit, GuardedProtocol
from server.listening import all_gone, turn_away

READ_TIMEOUT_S = 20.0
"""Seconds within which a request must have come whole, unless the caller says."""

SECURITY_HEADERS = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    # No script runs on any page of ours. A page may be stricter: browsers keep all policies that come.
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
]
"""On every reply, those of the HTTP parser too."""
HSTS = ("strict-transport-security", "max-age=31536000")

MAX_FRAME_BYTES = 4 * 1024 * 1024
"""Largest WebSocket message, unless the caller says."""


class _Server(uvicorn.Server):
    """Leaves signals to the process that it runs in, and says when it accepts."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Captures none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, and sets `accepting`."""
        await super().startup(sockets)
        self.accepting.set()


@dataclass(frozen=True, slots=True)
class HttpDoor:
    """A running server."""

    server: uvicorn.Server
    address: str
    """`HOST:PORT` that it is bound to."""
    bound: socket.socket
    exit: Exit
    shared: bool
    """Whether other processes listen on the port."""

    async def leave(self, *, within_s: float) -> None:
        """Goes on answering until no client is connected, at most `within_s` seconds. Each reply ends its connection.

        Where other processes share the port, new connections are left to them.
        """
        self.exit.open = True
        state = self.server.server_state
        for connection in list(state.connections):
            if isinstance(connection, GuardedProtocol):  # a WebSocket is none any more
                connection.send_away()
        if self.shared and self.bound.fileno() >= 0:
            await turn_away([self.bound])
            for one in self.server.servers:
                one.close()
            self.bound.close()
        await all_gone(lambda: len(state.connections), within_s=within_s)


def _bind(address: str, *, reuse_port: bool) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, int(port)))
    except (OSError, ValueError, OverflowError) as error:
        bound.close()
        raise UnavailableError(
            "http", f"cannot listen on {address!r} ({error}); choose another HOST:PORT, port 0 for a free one"
        ) from error
    return bound


@asynccontextmanager
async def open_gateway(app: AsgiApp, address: str, *, drain_s: float, **options: Any) -> AsyncIterator[str]:
    """Serves an ASGI application as `open_http_door` does, with its options, and yields the bound `HOST:PORT`."""
    async with open_http_door(app, address, drain_s=drain_s, **options) as door:
        yield door.address


@asynccontextmanager
async def open_http_door(
    app: AsgiApp,
    address: str,
    *,
    drain_s: float,
    reuse_port: bool = False,
    on_stop: Callable[[], None] = lambda: None,
    max_frame_bytes: int = MAX_FRAME_BYTES,
    read_timeout_s: float = READ_TIMEOUT_S,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[HttpDoor]:
    """Serves an ASGI application and yields the door.

    On exit it stops accepting and gives open requests `drain_s` seconds to finish; WebSockets close with 1012.

    Args:
        app: Typically a `Gateway`.
        address: `HOST:PORT`; port 0 chooses a free one. An IPv6 host stands in brackets.
        drain_s: Whole seconds count; less than one counts as one.
        reuse_port: Lets several processes listen on the same port.
        on_stop: Called when it stops accepting, such as `Gateway.end_streams`.
        max_frame_bytes: A larger WebSocket message closes its connection with 1009.
        read_timeout_s: A request that is not whole by then is answered 408 and its connection closed.
        tls: The server's certificate. None: plain HTTP.

    Raises:
        UnavailableError: The address cannot be had.
    """
    bound = _bind(address, reuse_port=reuse_port)
    leaving = Exit()
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_max_size=max_frame_bytes,
        ws_per_message_deflate=False,  # small JSON frames gain little, and each connection would hold two windows
        http=cast("type[asyncio.Protocol]", partial(GuardedProtocol, read_s=read_timeout_s, exit=leaving)),
        headers=[*SECURITY_HEADERS, *([HSTS] if tls is not None else [])],
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, int(drain_s)),
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    started = asyncio.create_task(server.accepting.wait())
    try:
        await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            await serving
            raise UnavailableError("http", f"did not start on {address!r}; the log says why")
        host, port = bound.getsockname()[:2]
        yield HttpDoor(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", bound, leaving, reuse_port)
    finally:
        started.cancel()
        server.should_exit = True
        on_stop()
        await asyncio.shield(serving)
        bound.close()
