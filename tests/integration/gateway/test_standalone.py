"""What the stand-alone gateway does beside transcoding: TLS, reflection, metadata, caches, compression, limits, other origins."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection

from server.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from server.gateway.build import build_gateway
from server.gateway.descriptors import load_set
from server.gateway.forwarding import open_channel, open_forwarding
from server.gateway.policy import Policy, read_max_ages, read_origins
from server.gateway.reflection import reflect
from server.gateway.server import open_gateway
from tests.fixtures_gateway import library, message

ROOT = Path(__file__).resolve().parents[3]


class Upstream(grpc.GenericRpcHandler):
    """The library on gRPC: echoes with metadata of every kind, and keeps what came."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the method's handler; None for methods of others."""
        method = library().methods.get(handler_call_details.method)
        if method is None:
            return None

        async def answer(request: Any, context: Any) -> Any:
            self.metadata = dict(context.invocation_metadata())
            await context.send_initial_metadata((("x-shelf", "7"), ("x-raw-bin", b"\xff\x00"), ("content-language", "pt")))
            context.set_trailing_metadata((("x-cost", "3"), ("x-total", "9")))
            if method.name == "Fail":
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "closed")
            if method.name == "GetBook":
                return message("Book", name=request.name, title="Emma " * 2000)
            return request if method.name == "Echo" else GetMessageClass(method.output_type)()

        return grpc.unary_unary_rpc_method_handler(
            answer, GetMessageClass(method.input_type).FromString, lambda reply: reply.SerializeToString()
        )


@asynccontextmanager
async def upstream_server(
    credentials: grpc.ServerCredentials | None = None, *, reflects: bool = False
) -> AsyncIterator[tuple[Upstream, str]]:
    """Yields a running library server and its address."""
    server = grpc.aio.server()
    handler = Upstream()
    server.add_generic_rpc_handlers((handler,))
    if reflects:
        reflection.enable_server_reflection(["library.v1.Library", reflection.SERVICE_NAME], server, pool=library().pool)
    address = "localhost:0"
    port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield handler, f"localhost:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def gateway(policy: Policy | None = None, *, max_bytes: int = 200_000) -> AsyncIterator[tuple[Upstream, httpx.AsyncClient]]:
    """Yields the upstream and a client of a gateway before it."""
    async with (
        upstream_server() as (upstream, address),
        open_forwarding(
            address, library().methods, max_message_bytes=max_bytes, reply_headers=policy.reply_headers if policy else frozenset()
        ) as dispatcher,
    ):
        app = build_gateway(
            dispatcher,
            pool=library().pool,
            comments={},
            ready=dispatcher.ready,
            title="Library",
            version="1",
            max_body_bytes=max_bytes,
            default_timeout_s=20.0,
            mounts={},
            policy=policy,
        )
        async with (
            open_gateway(app, "127.0.0.1:0", drain_s=1.0) as bound,
            httpx.AsyncClient(base_url=f"http://{bound}", timeout=60) as client,
        ):
            yield upstream, client


BOOK = "/v1/shelves/1/books/2"


@pytest.mark.feature("headers")
async def test_metadata_and_trailers_become_headers() -> None:
    """Metadata of replies stands behind grpc-gateway's prefixes; well-known names, and those allowed, stand alone; bytes are base64."""
    async with gateway(Policy(reply_headers=frozenset({"x-total"}))) as (_, client):
        reply = await client.get(BOOK)
        assert reply.headers["grpc-metadata-x-shelf"] == "7"
        assert reply.headers["grpc-metadata-x-raw-bin"] == "/wA="
        assert reply.headers["grpc-trailer-x-cost"] == "3"
        assert reply.headers["x-total"] == "9"
        assert reply.headers["content-language"] == "pt"
        failed = await client.post("/v1/fail", json={})
        assert (failed.status_code, failed.headers["grpc-trailer-x-cost"]) == (400, "3")


@pytest.mark.feature("headers", "tracing")
async def test_headers_become_metadata_by_an_allow_list() -> None:
    """Only known headers, allowed ones and those behind the prefix go on; what gRPC gives a meaning to does not."""
    headers = {
        "x-colour": "red",
        "x-secret": "no",
        "grpc-metadata-x-size": "9",
        "grpc-metadata-x-raw-bin": "/wA",
        "grpc-metadata-grpc-encoding": "no",
        "grpc-metadata-x-forwarded-for": "9.9.9.9",
        "grpc-metadata-content-type": "text/html",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-request-id": "r-1",
    }
    async with gateway(Policy(request_headers=frozenset({"x-colour"}))) as (upstream, client):
        reply = await client.get(BOOK, headers=headers)
        came = upstream.metadata
        assert (came["x-colour"], came["x-size"], came["x-raw-bin"]) == ("red", "9", b"\xff\x00")
        assert (came["traceparent"], came["x-request-id"], reply.headers["x-request-id"]) == (headers["traceparent"], "r-1", "r-1")
        assert came["x-forwarded-for"] == "127.0.0.1"
        assert not came.keys() & {"x-secret", "grpc-encoding", "content-type"}
        assert (await client.get(BOOK, headers={"grpc-metadata-x-bin": "*"})).status_code == 400


@pytest.mark.feature("caching")
async def test_a_reply_may_be_asked_for_again() -> None:
    """A reply to GET has a tag of its content; who has it already gets 304 without a body, compressed or not."""
    async with gateway() as (_, client):
        first = await client.get(BOOK)
        assert first.headers["etag"].startswith('W/"')
        assert first.headers["cache-control"] == "private, no-cache"
        for tags in (first.headers["etag"], f'"x", {first.headers["etag"].removeprefix("W/")}', "*"):
            again = await client.get(BOOK, headers={"if-none-match": tags, "accept-encoding": "identity"})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert (await client.get(BOOK, headers={"if-none-match": '"x"'})).status_code == 200
        other = await client.get("/v1/shelves/1/books/3")
        assert other.headers["etag"] != first.headers["etag"]


@pytest.mark.feature("caching")
async def test_caches_may_keep_what_was_declared() -> None:
    """A method that was declared cacheable is public for its time, by what its reply depends on; the rest, errors and POST are not."""
    ages = read_max_ages(["library.v1.Library/GetBook=60"], library().methods)
    async with gateway(Policy(max_age_s=ages, request_headers=frozenset({"x-colour"}))) as (_, client):
        book = await client.get(BOOK)
        assert book.headers["cache-control"] == "public, max-age=60"
        assert set(book.headers["vary"].split(", ")) >= {"authorization", "x-api-key", "accept-encoding", "x-colour"}
        assert (await client.get(BOOK, headers={"x-aisle-consistency-token": "t"})).headers["cache-control"] == "private, no-cache"
        assert (await client.get("/v1/shelves/1/titles")).headers["cache-control"] == "private, no-cache"
        assert (await client.post("/v1/echo", json={})).headers["cache-control"] == "no-store"
        assert (await client.get("/v1/nope")).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("library.v1.Library/Nope=5", "names no method"),
        ("library.v1.Library/GetBook", "whole seconds"),
        ("library.v1.Library/GetBook=-1", "whole seconds"),
    ],
)
def test_a_wrong_cache_entry_is_refused(text: str, words: str) -> None:
    """An entry that cannot be meant stops the start, and says how to write it."""
    with pytest.raises(InvalidArgumentError, match=words):
        read_max_ages([text], library().methods)


@pytest.mark.parametrize("text", ["shop.example", "https://shop.example/", "https://shop.example/a", "HTTPS://shop.example", "null"])
def test_a_wrong_origin_is_refused(text: str) -> None:
    """An origin that no browser would send stops the start."""
    with pytest.raises(InvalidArgumentError, match="is not an origin"):
        read_origins([text])


@pytest.mark.feature("compression")
async def test_long_replies_are_compressed_for_those_who_ask() -> None:
    """A long JSON reply comes as gzip if the caller takes it, and short ones and errors as they are."""
    async with gateway() as (_, client):
        reply = await client.get(BOOK, headers={"accept-encoding": "br;q=1, gzip;q=0.5"})
        assert reply.headers["content-encoding"] == "gzip"
        assert int(reply.headers["content-length"]) < 1000 < len(reply.content)
        assert reply.json()["title"].startswith("Emma")
        for refused in ("identity", "gzip;q=0", "br", ""):
            assert "content-encoding" not in (await client.get(BOOK, headers={"accept-encoding": refused})).headers
        assert "content-encoding" not in (await client.post("/v1/echo", json={"stringField": "a"})).headers


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.feature("compression")
async def test_compressed_bodies_are_read(coding: str, compress: Any) -> None:
    """A body may come compressed; one that would inflate past the limit is 413, and one that is cut or goes on is 400."""
    async with gateway() as (_, client):
        headers = {"content-type": "application/json", "content-encoding": coding}
        body = compress(json.dumps({"stringField": "a" * 1000}).encode())
        assert (await client.post("/v1/echo", content=body, headers=headers)).json() == {"stringField": "a" * 1000}
        bomb = compress(b" " * 50_000_000)
        assert len(bomb) < 200_000
        assert (await client.post("/v1/echo", content=bomb, headers=headers)).status_code == 413
        for wrong in (body[:-5], body + b"x"):
            assert (await client.post("/v1/echo", content=wrong, headers=headers)).status_code == 400


@pytest.mark.feature("limits")
async def test_a_reply_over_the_limit_is_an_error() -> None:
    """A reply larger than the limit, as JSON or already as protobuf, is an error that says so, not a cut reply."""
    async with gateway(max_bytes=9_000) as (_, client):
        reply = await client.get(BOOK)
        assert (reply.status_code, reply.json()["code"]) == (429, 8)  # gRPC's own word for it
        assert "larger than max" in reply.json()["message"]
        grown = await client.get(f"/v1/echo?stringField={'%00' * 2000}")  # six bytes of JSON each
        assert (grown.status_code, grown.json()["code"]) == (400, 11)
        assert "more than 9000; ask for less at once" in grown.json()["message"]


@pytest.mark.feature("cors")
async def test_pages_of_allowed_origins_may_call() -> None:
    """The browser's question before a call is answered for allowed origins alone, and replies carry leave for them."""
    async with gateway(Policy(origins=read_origins(["https://shop.test"]))) as (_, client):
        asked = {"origin": "https://shop.test", "access-control-request-method": "PATCH", "access-control-request-headers": "authorization"}
        leave = await client.options(BOOK, headers=asked)
        assert leave.status_code == 200
        assert leave.headers["access-control-allow-origin"] == "https://shop.test"
        assert "PATCH" in leave.headers["access-control-allow-methods"]
        assert "authorization" in leave.headers["access-control-allow-headers"]
        reply = await client.get(BOOK, headers={"origin": "https://shop.test"})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, "https://shop.test")
        assert "Origin" in reply.headers["vary"]
        other = await client.options(BOOK, headers={**asked, "origin": "https://evil.test"})
        assert (other.status_code, "access-control-allow-origin" in other.headers) == (400, False)
        assert (await client.get(BOOK, headers={"origin": "https://evil.test"})).status_code == 403


@pytest.mark.feature("cors")
async def test_all_origins_may_call_with_a_key() -> None:
    """`*` lets any page call, but not as the visitor's own machine: it needs a key."""
    async with gateway(Policy(origins=read_origins(["*"]))) as (_, client):
        reply = await client.get(BOOK, headers={"origin": "https://any.test", "authorization": "Bearer k"})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, "*")
        assert (await client.get(BOOK, headers={"origin": "https://any.test"})).status_code == 403


@pytest.mark.feature("reflection")
async def test_reflection_gives_what_a_descriptor_set_would() -> None:
    """A server's reflection yields the same methods and HTTP rules as its descriptor set."""
    async with upstream_server(reflects=True) as (_, address), open_channel(address, max_message_bytes=1_000_000) as channel:
        described = load_set(await reflect(channel, timeout_s=60))
        assert described.methods.keys() == library().methods.keys()
        assert [str(method.GetOptions()) for method in described.methods.values()] == [
            str(library().methods[name].GetOptions()) for name in described.methods
        ]


@pytest.mark.feature("reflection")
async def test_a_server_without_reflection_says_what_to_do() -> None:
    """A server that offers no reflection, or none at all, ends the start with a mend."""
    async with upstream_server() as (_, address), open_channel(address, max_message_bytes=1_000_000) as channel:
        with pytest.raises(FailedPreconditionError, match="--descriptor-set FILE"):
            await reflect(channel, timeout_s=60)
    async with open_channel("localhost:1", max_message_bytes=1_000_000) as channel:
        with pytest.raises(UnavailableError, match="upstream"):
            await reflect(channel, timeout_s=60)


async def test_a_refusal_that_meets_the_question_is_told_from_a_fault() -> None:
    """Of many servers without reflection each is told so, also where the refusal comes while the question is still being written."""
    async with upstream_server() as (_, address):
        for _ in range(400):  # it met in one of 125
            async with open_channel(address, max_message_bytes=1_000_000) as channel:
                with pytest.raises(FailedPreconditionError, match="offers no reflection"):
                    await reflect(channel, timeout_s=60)


@pytest.mark.feature("tls")
async def test_the_command_speaks_tls_and_asks_for_the_services(tmp_path: Path) -> None:
    """`aisle gateway --tls-ca` reaches a TLS server whose certificate the authority signed, and needs no descriptor set."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    async with upstream_server(credentials, reflects=True) as (_, address):
        path = os.pathsep.join([str(ROOT), str(ROOT / "proto" / "gen")])
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "server", "gateway", "--upstream", address, "--tls-ca", str(tmp_path / "ca.pem"), "--http-port", "0",
            "--header", "X-Colour", "--reply-header", "X-Shelf", "--cors-origin", "https://shop.test",
            "--cache", "library.v1.Library/GetBook=5",
            cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            ready = (await asyncio.wait_for(process.stdout.readline(), 100)).decode()
            assert ready.startswith("gateway ready http=")
            async with httpx.AsyncClient(base_url=ready.split()[2].removeprefix("http="), timeout=60) as client:
                reply = await client.get(BOOK, headers={"origin": "https://shop.test"})
                assert reply.json()["name"] == "shelves/1/books/2"
                assert reply.headers["x-shelf"] == "7"
                assert reply.headers["cache-control"] == "public, max-age=5"
                assert reply.headers["access-control-allow-origin"] == "https://shop.test"
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
