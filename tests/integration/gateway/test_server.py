"""The gateway on a real port, and the stand-alone gateway before a real gRPC server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from server.errors import InvalidFieldError, UnavailableError
from server.gateway.build import build_gateway
from server.gateway.forwarding import open_forwarding
from server.gateway.server import open_gateway
from server.interceptors.status import status_of
from tests.fixtures_gateway import library, library_set, message

ROOT = Path(__file__).resolve().parents[3]


class _Upstream(grpc.GenericRpcHandler):
    """The library on gRPC: echoes, fails with details, waits."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the method's handler."""
        method = library().methods[handler_call_details.method]

        async def answer(request: Any, context: Any) -> Any:
            self.metadata = dict(context.invocation_metadata())
            if method.name == "Fail":
                await context.abort_with_status(rpc_status.to_status(status_of(InvalidFieldError("user", "must not be empty"))))
            if method.name == "Archive":
                await context.abort(grpc.StatusCode.ABORTED, "two writers met")
            if method.name != "Echo":
                return message("Book", name=request.name)
            if request.string_field == "wait":
                self.waiting.set()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            await context.send_initial_metadata((("x-upstream", "yes"),))
            return request

        request_class = GetMessageClass(method.input_type)
        return grpc.unary_unary_rpc_method_handler(answer, request_class.FromString, lambda reply: reply.SerializeToString())


@asynccontextmanager
async def upstream_server() -> AsyncIterator[tuple[_Upstream, str]]:
    """Yields a running library server and its address."""
    server = grpc.aio.server()
    handler = _Upstream()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield handler, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def forwarding_gateway(upstream: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of a gateway that forwards to `upstream`."""
    async with open_forwarding(upstream, library().methods, max_message_bytes=100_000) as dispatcher:
        app = build_gateway(
            dispatcher,
            pool=library().pool,
            comments={},
            ready=dispatcher.ready,
            title="Library",
            about="Lends books.",
            version="1",
            max_body_bytes=100_000,
            default_timeout_s=10.0,
            mounts={},
        )
        async with open_gateway(app, "127.0.0.1:0", drain_s=1.0) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
            yield client


async def test_calls_go_through_to_any_grpc_server() -> None:
    """A real gRPC server answers by HTTP: replies, metadata both ways, errors with their details."""
    async with upstream_server() as (upstream, address), forwarding_gateway(address) as client:
        reply = await client.post("/v1/echo", json={"int64Field": "5", "childMap": {"a": {}}}, headers={"authorization": "Bearer k"})
        assert reply.json() == {"int64Field": "5", "childMap": {"a": {}}}
        assert reply.headers["grpc-metadata-x-upstream"] == "yes"
        assert upstream.metadata["authorization"] == "Bearer k"
        assert upstream.metadata["x-forwarded-for"] == "127.0.0.1"
        assert (await client.get("/v1/shelves/1/books/2")).json() == {"name": "shelves/1/books/2"}
        failed = await client.post("/v1/fail", json={})
        assert failed.status_code == 400
        assert failed.json()["details"][1]["fieldViolations"][0]["field"] == "user"
        aborted = await client.post("/v1/shelves/1/books/2:archive", json={})
        assert (aborted.status_code, aborted.json()["message"]) == (409, "two writers met")
        assert (await client.get("/healthz/ready")).status_code == 200


@pytest.mark.feature("deadline", "cancel")
async def test_the_deadline_and_a_leaving_client_reach_the_upstream() -> None:
    """The call ends with the caller's deadline, or when the caller goes."""
    async with upstream_server() as (upstream, address), forwarding_gateway(address) as client:
        late = await client.post("/v1/echo", json={"stringField": "wait"}, headers={"grpc-timeout": "200m"})
        assert late.status_code == 504
        upstream.cancelled.clear()
        upstream.waiting.clear()
        leaving = asyncio.create_task(client.post("/v1/echo", json={"stringField": "wait"}))
        await asyncio.wait_for(upstream.waiting.wait(), 20)
        leaving.cancel()
        await asyncio.wait_for(upstream.cancelled.wait(), 20)


async def test_an_upstream_that_is_down_is_unavailable() -> None:
    """Without an upstream a call is a 503 and readiness says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        async with forwarding_gateway(f"127.0.0.1:{taken.getsockname()[1]}") as client:
            assert (await client.get("/v1/shelves/1/books/2")).status_code == 503
            assert (await client.get("/healthz/ready")).status_code == 503


@pytest.mark.feature("hostile-paths")
async def test_the_port_takes_a_path_of_sixty_four_thousand_slashes() -> None:
    """A hostile path over a socket is a plain 404."""
    async with upstream_server() as (_, address), forwarding_gateway(address) as client:
        assert (await client.get("/v1" + "/" * 64_000)).status_code == 404


async def test_open_requests_finish_before_the_server_stops() -> None:
    """Leaving the context lets an accepted request finish and refuses new ones."""
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(_scope: Any, _receive: Any, send: Any) -> None:
        started.set()
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def stop_soon() -> None:
        await asyncio.sleep(0.3)
        release.set()

    async with httpx.AsyncClient() as client:
        async with open_gateway(slow, "127.0.0.1:0", drain_s=10.0) as address:
            request = asyncio.create_task(client.get(f"http://{address}/"))
            await started.wait()
            releasing = asyncio.create_task(stop_soon())
        assert (await request).text == "ok"
        await releasing
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://{address}/")


async def test_ipv6_and_an_address_in_use() -> None:
    """An IPv6 address is served in brackets; a taken or malformed one is a clear error."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with open_gateway(app, "127.0.0.1:0", drain_s=1.0) as address:
        with pytest.raises(UnavailableError, match="choose another HOST:PORT"):
            async with open_gateway(app, address, drain_s=1.0):
                pass
    with pytest.raises(UnavailableError, match="choose another HOST:PORT"):
        async with open_gateway(app, "127.0.0.1:x", drain_s=1.0):
            pass


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    path = os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen")])
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", "gateway", *arguments,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def test_the_command_serves_and_stops_on_sigterm(tmp_path: Path) -> None:
    """`aisle gateway` prints its address, serves, and ends with 0 on SIGTERM."""
    described = tmp_path / "library.binpb"
    described.write_bytes(library_set())
    async with upstream_server() as (_, address):
        process = await _start("--descriptor-set", str(described), "--upstream", address, "--http-port", "0", "--title", "Library")
        try:
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
            assert line.startswith("gateway ready http=http://127.0.0.1:")
            url = line.split()[2].removeprefix("http=")
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.get("/v1/shelves/1/books/2")).json() == {"name": "shelves/1/books/2"}
                assert "Lends books." in (await client.get("/docs")).text
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0


@pytest.mark.parametrize(("data", "words"), [(b"nonsense", "not a FileDescriptorSet"), (b"", "is empty")])
async def test_a_wrong_descriptor_set_is_one_line_and_exit_1(tmp_path: Path, data: bytes, words: str) -> None:
    """A file that is no descriptor set ends the command with a line that says how to make one."""
    described = tmp_path / "wrong.binpb"
    described.write_bytes(data)
    process = await _start("--descriptor-set", str(described), "--upstream", "127.0.0.1:1")
    _, stderr = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert words in stderr.decode()
    assert len(stderr.decode().splitlines()) == 1
