"""uvicorn inside the running event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from server.errors import UnavailableError
from server.gateway.http import AsgiApp


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
async def open_gateway(app: AsgiApp, address: str, *, drain_s: float, reuse_port: bool = False) -> AsyncIterator[str]:
    """Serves an ASGI application and yields the bound `HOST:PORT`.

    On exit it stops accepting and gives open requests `drain_s` seconds to finish.

    Args:
        app: Typically a `Gateway`.
        address: `HOST:PORT`; port 0 chooses a free one. An IPv6 host stands in brackets.
        drain_s: Whole seconds count; less than one counts as one.
        reuse_port: Lets several processes listen on the same port.

    Raises:
        UnavailableError: The address cannot be had.
    """
    bound = _bind(address, reuse_port=reuse_port)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
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
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    finally:
        started.cancel()
        server.should_exit = True
        await asyncio.shield(serving)
        bound.close()
