"""How the doors open and close, together."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import pytest

from server.api.server import open_grpc_door
from server.app import Endpoints, serving
from server.embedded import Parts
from server.errors import UnavailableError
from server.inference import BuiltEncoder
from server.interceptors.chain import InProcessDispatcher
from server.store import Database
from tests.eventually import eventually
from tests.fixtures_server import server_settings


async def test_a_taken_grpc_port_is_told_by_the_settings_name() -> None:
    """The error names the setting and the address, and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=f"AISLE_GRPC_ADDRESS={address}; choose another HOST:PORT"):
            async with open_grpc_door(
                InProcessDispatcher({}, []), address=address, default_timeout_s=1.0, max_message_bytes=1024, reuse_port=False
            ):
                pass


async def test_both_doors_drain_at_once(parts: Parts, database: Database, encoder: BuiltEncoder, tmp_path: Path) -> None:
    """While an open gRPC stream holds up the stop, the HTTP door takes nothing new any more; with the stream the server ends."""
    stop = asyncio.Event()
    opened: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def serve() -> None:
        settings = server_settings(tmp_path, runtime="local", drain_s=60)
        async with serving(settings, Endpoints(parts.database_url, parts.redis_url, ""), encoder) as doors:
            opened.put_nowait((doors.grpc_address, doors.http_address))
            await stop.wait()

    server = asyncio.create_task(serve())
    grpc_address, http_address = await opened.get()
    async with grpc.aio.insecure_channel(grpc_address) as channel:
        stream = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
        await stream.write(b"\x3a\x00")  # list_services: ""
        assert await stream.read()
        stop.set()

        async def http_closed() -> bool:
            with suppress(httpx.HTTPError):
                async with httpx.AsyncClient() as client:
                    await client.get(f"http://{http_address}/healthz/live")
                    return False
            return True

        await eventually(http_closed)
        assert not server.done()
        await stream.done_writing()
        while await stream.read():
            pass
    await server
