"""The ASGI application over a dispatcher in this process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router

from server.errors import AisleError, InvalidFieldError, OverloadedError, UnauthenticatedError
from server.gateway.asgi import Gateway
from server.gateway.build import build_gateway
from server.gateway.replies import HTTP_STATUS
from server.interceptors.call import Call, CallError
from server.interceptors.status import status_of
from tests.fixtures_gateway import library, message

LIMIT = 10_000


class LibraryDispatcher:
    """Answers the library's calls: echoes, builds books, fails as told. Keeps the last call."""

    def __init__(self) -> None:
        self.last: Call | None = None
        self.request: Any = None
        self.cancelled = asyncio.Event()
        self.waiting = asyncio.Event()
        self.error: Exception | None = None
        self.missing: list[str] = []

    @property
    def methods(self) -> Mapping[str, MethodDescriptor]:
        """The library's methods."""
        return library().methods

    async def ready(self) -> Sequence[str]:
        """Returns what the test says is missing."""
        return self.missing

    async def unary(self, call: Call, request: Message) -> Message:
        """Returns a reply by the method's name."""
        self.last, self.request = call, request
        if self.error is not None:
            raise self.error
        if call.deadline <= time.monotonic():
            raise CallError(status_of(AisleError("late")))
        answer: Callable[[Any], Awaitable[Any]] = getattr(self, call.method.rpartition("/")[2].lower(), self.default)
        call.response_metadata["x-served-by"] = "library"
        reply: Message = await answer(request)
        return reply

    async def default(self, request: Any) -> Any:
        """Returns an empty reply of the method's type."""
        assert self.last is not None
        return GetMessageClass(library().methods[self.last.method].output_type)()

    async def echo(self, request: Any) -> Any:
        """Returns the request."""
        if request.string_field == "wait":
            self.waiting.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return request

    async def getbook(self, request: Any) -> Any:
        """Returns the book asked for."""
        return message("Book", name=request.name, title="Emma", page_count=474)

    async def listtitles(self, request: Any) -> Any:
        """Returns two titles."""
        return message("ListBooksResponse", titles=["Emma", "Persuasion"])

    async def listbooks(self, request: Any) -> Any:
        """Returns a book of a time that has no text."""
        return message("ListBooksResponse", books=[{"create_time": {"seconds": -(1 << 60)}}])

    async def upload(self, request: Any) -> Any:
        """Returns the cover."""
        return request.cover


async def hello(_request: Request) -> PlainTextResponse:
    """A mounted page."""
    return PlainTextResponse("hello")


@pytest.fixture
async def dispatcher() -> LibraryDispatcher:
    """A fresh dispatcher."""
    return LibraryDispatcher()


@pytest.fixture
async def app(dispatcher: LibraryDispatcher) -> Gateway:
    """The gateway over it."""
    return build_gateway(
        dispatcher,
        pool=library().pool,
        comments=library().comments,
        ready=dispatcher.ready,
        title="Library",
        about="Lends books.",
        version="1",
        max_body_bytes=LIMIT,
        default_timeout_s=5.0,
        mounts={"/": Router([Route("/", hello)])},
    )


@pytest.fixture
async def client(app: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway, without a socket."""
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 5))  # type: ignore[arg-type]  # httpx types ASGI more narrowly
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


@pytest.mark.feature("in-process")
async def test_a_get_is_a_call(client: httpx.AsyncClient) -> None:
    """A path becomes a request and the reply JSON; metadata of the reply becomes headers."""
    reply = await client.get("/v1/shelves/1/books/a%2Fb")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-served-by"] == "library"
    assert reply.json() == {"name": "shelves/1/books/a%2Fb", "title": "Emma", "pageCount": "474"}


@pytest.mark.feature("bindings", "response-body", "http-body")
async def test_additional_bindings_response_bodies_and_raw_bodies(client: httpx.AsyncClient) -> None:
    """Each binding answers; `response_body` is the whole reply; HttpBody goes through as bytes."""
    assert (await client.get("/v1/books/x%2Fy")).json()["name"] == "x/y"
    assert (await client.get("/v1/shelves/1/titles")).json() == ["Emma", "Persuasion"]
    cover = await client.post("/v1/shelves/1/books/2/cover", content=b"\xff\xd8", headers={"content-type": "image/jpeg"})
    assert (cover.content, cover.headers["content-type"]) == (b"\xff\xd8", "image/jpeg")
    assert (await client.post("/v1/shelves/1/books/2:archive", content=b"")).json() == {}


@pytest.mark.feature("headers", "tracing")
async def test_headers_become_metadata(client: httpx.AsyncClient, dispatcher: LibraryDispatcher) -> None:
    """The headers that mean something reach the call; the request id comes back; others stay behind."""
    headers = {
        "Authorization": "Bearer k",
        "X-Api-Key": "k2",
        "X-Aisle-Consistency-Token": "t",
        "X-Request-Id": "r-1",
        "traceparent": "00-1",
        "Grpc-Metadata-Colour": "red",
        "cookie": "secret",
    }
    reply = await client.get("/v1/shelves/1/books/2", headers=headers)
    assert dispatcher.last is not None
    metadata = dict(dispatcher.last.metadata)
    metadata.pop("user-agent")
    assert metadata == {
        "authorization": "Bearer k",
        "x-api-key": "k2",
        "x-aisle-consistency-token": "t",
        "x-request-id": "r-1",
        "traceparent": "00-1",
        "colour": "red",
        "x-forwarded-for": "127.0.0.1",
    }
    assert reply.headers["x-request-id"] == "r-1"
    assert dispatcher.last.method == "/library.v1.Library/GetBook"
    assert dispatcher.last.door == "http"


@pytest.mark.parametrize("sent", ["", "x" * 129, "\x7f"])
@pytest.mark.feature("tracing")
async def test_a_request_without_a_usable_id_gets_one(client: httpx.AsyncClient, dispatcher: LibraryDispatcher, sent: str) -> None:
    """The id that the log has is the one the caller sees."""
    reply = await client.get("/v1/shelves/1/books/2", headers={"x-request-id": sent})
    assert dispatcher.last is not None
    assert reply.headers["x-request-id"] != sent
    assert reply.headers["x-request-id"] == dispatcher.last.metadata["x-request-id"] != ""


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("10.0.0.1", {}, False),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}, False),
    ],
)
async def test_only_direct_callers_of_this_machine_are_loopback(
    app: Gateway, dispatcher: LibraryDispatcher, peer: str, headers: dict[str, str], *, expected: bool
) -> None:
    """A caller behind a proxy is not this machine, wherever the proxy runs."""
    transport = httpx.ASGITransport(app, client=(peer, 5))  # type: ignore[arg-type]  # as above
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        await http.get("/v1/shelves/1/books/2", headers=headers)
    assert dispatcher.last is not None
    assert dispatcher.last.loopback is expected


@pytest.mark.parametrize(("text", "seconds"), [("2S", 2.0), ("1500m", 1.5), ("1M", 60.0), ("1H", 3600.0), ("90000000u", 90.0)])
@pytest.mark.feature("deadline")
async def test_grpc_timeout_sets_the_deadline(client: httpx.AsyncClient, dispatcher: LibraryDispatcher, text: str, seconds: float) -> None:
    """The header's time, in any of gRPC's units, is the call's deadline."""
    before = time.monotonic()
    await client.get("/v1/shelves/1/books/2", headers={"grpc-timeout": text})
    assert dispatcher.last is not None
    assert before + seconds <= dispatcher.last.deadline <= time.monotonic() + seconds


@pytest.mark.parametrize("text", ["", "5", "S", "-1S", "5 S", "999999999S", "1.5S", "5s"])
@pytest.mark.feature("deadline")
async def test_a_malformed_grpc_timeout_is_refused(client: httpx.AsyncClient, text: str) -> None:
    """A timeout that does not parse is a 400 that names the header."""
    reply = await client.get("/v1/shelves/1/books/2", headers={"grpc-timeout": text})
    assert reply.status_code == 400
    assert reply.json()["message"].startswith("grpc-timeout: must be")


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code", "words"),
    [
        ("GET", "/nope", b"", {}, 404, "NOT_FOUND", "nothing is at '/nope'"),
        ("GET", "/v1" + "/" * 64_000, b"", {}, 404, "NOT_FOUND", "nothing is at"),
        ("PUT", "/v1/echo", b"{}", {}, 405, "INVALID_ARGUMENT", "use GET, HEAD, OPTIONS, POST"),
        ("POST", "/healthz/live", b"{}", {}, 405, "INVALID_ARGUMENT", "use GET, HEAD, OPTIONS"),
        ("POST", "/v1/echo", b'{"a":', {}, 400, "INVALID_ARGUMENT", "malformed JSON at line 1, column 6"),
        ("POST", "/v1/echo", b'{"int32Feld":1}', {}, 400, "INVALID_ARGUMENT", "did you mean 'int32Field'?"),
        ("POST", "/v1/echo", b'{"a":"\xff"}', {}, 400, "INVALID_ARGUMENT", "is not UTF-8 at byte 6"),
        ("POST", "/v1/echo", b"[" * 3000, {}, 400, "INVALID_ARGUMENT", "malformed JSON"),
        ("GET", "/v1/echo?nope=1", b"", {}, 400, "INVALID_ARGUMENT", "nope: is not a field of library.v1.Everything"),
        ("GET", "/v1/books/%ff", b"", {}, 400, "INVALID_ARGUMENT", "path: percent-encoded bytes are not UTF-8"),
        ("POST", "/v1/echo", b" " * (LIMIT + 1), {}, 413, "INVALID_ARGUMENT", f"larger than {LIMIT} bytes"),
        ("POST", "/v1/echo", b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "INVALID_ARGUMENT", "application/json"),
        ("POST", "/v1/echo", b"{}", {"content-type": "application/json; charset=utf-16"}, 415, "INVALID_ARGUMENT", "send UTF-8"),
        ("POST", "/v1/echo", b"{}", {"content-encoding": "br"}, 415, "INVALID_ARGUMENT", "send gzip, deflate, or the body as it is"),
        ("POST", "/v1/echo", b"{}", {"content-encoding": "gzip"}, 400, "INVALID_ARGUMENT", "is not gzip, as content-encoding says"),
    ],
)
@pytest.mark.feature("errors")
async def test_bad_requests_get_a_status(
    client: httpx.AsyncClient, method: str, path: str, body: bytes, headers: dict[str, str], status: int, code: str, words: str
) -> None:
    """Each kind of bad request has its HTTP status, a google.rpc.Status with details, and words that help."""
    sent = {"content-type": "application/json", **headers} if body else headers
    reply = await client.request(method, path, content=body, headers=sent)
    assert reply.status_code == status
    assert reply.json()["code"] == code_pb2.Code.Value(code)
    assert words in reply.json()["message"]
    assert reply.json()["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"


@pytest.mark.feature("limits")
async def test_a_body_of_unknown_length_is_limited_too(client: httpx.AsyncClient) -> None:
    """A chunked body is refused once it passes the limit."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 1000

    reply = await client.post("/v1/echo", content=chunks(), headers={"content-type": "application/json"})
    assert reply.status_code == 413


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=UTF-8", "application/merge-patch+json"])
async def test_json_content_types_are_read(client: httpx.AsyncClient, kind: str) -> None:
    """JSON by any of its names is read."""
    reply = await client.post("/v1/echo", content=b'{"int32Field": 1}', headers={"content-type": kind})
    assert reply.json() == {"int32Field": 1}


async def test_a_body_that_does_not_say_json_is_refused(client: httpx.AsyncClient) -> None:
    """A page of another site may send a body without a type, or of a form's type, but not JSON."""
    reply = await client.post("/v1/echo", content=b"{}")
    assert reply.status_code == 415
    assert "content-type: application/json" in reply.json()["message"]


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "http://evil.test"}, {"origin": "null"}]
)
@pytest.mark.feature("cors")
async def test_pages_of_other_sites_need_a_key(client: httpx.AsyncClient, dispatcher: LibraryDispatcher, headers: dict[str, str]) -> None:
    """A call without a key that a browser on this machine sends for another site is refused; with a key it is answered."""
    refused = await client.post("/v1/shelves/1/books/2:archive", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, code_pb2.PERMISSION_DENIED)
    assert dispatcher.last is None
    allowed = await client.post("/v1/shelves/1/books/2:archive", headers={**headers, "authorization": "Bearer k"})
    assert allowed.status_code == 200


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin", "origin": "http://test"}])
async def test_own_pages_and_programs_need_no_key_here(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """Pages of this server, addresses typed into a browser, and curl, which says nothing of a site, are answered."""
    assert (await client.post("/v1/shelves/1/books/2:archive", headers=headers)).status_code == 200


async def test_405_names_what_is_allowed_and_options_asks(client: httpx.AsyncClient) -> None:
    """`Allow` lists the path's methods in both replies."""
    assert (await client.delete("/v1/echo")).headers["allow"] == "GET, HEAD, OPTIONS, POST"
    options = await client.options("/v1/shelves/1/books/2")
    assert (options.status_code, options.headers["allow"], options.content) == (204, "GET, HEAD, OPTIONS, PATCH, PUT", b"")
    assert (await client.options("/nope")).status_code == 404


async def test_head_is_get_without_a_body(client: httpx.AsyncClient) -> None:
    """HEAD runs the call and sends the same headers."""
    got = await client.get("/v1/shelves/1/books/2", headers={"x-request-id": "r"})
    head = await client.head("/v1/shelves/1/books/2", headers={"x-request-id": "r"})
    assert head.content == b""
    assert head.headers == got.headers


@pytest.mark.parametrize(("code", "http_status"), sorted(HTTP_STATUS.items())[1:])
@pytest.mark.feature("errors")
async def test_codes_map_to_http_as_in_grpc_gateway(
    client: httpx.AsyncClient, dispatcher: LibraryDispatcher, code: int, http_status: int
) -> None:
    """Every gRPC code has its HTTP status, and the body keeps the code."""
    status = status_of(AisleError("as told", key="value"))
    status.code = code
    dispatcher.error = CallError(status)
    reply = await client.post("/v1/fail", json={})
    assert reply.status_code == http_status
    assert reply.json() == {
        "code": code,
        "message": "as told",
        "details": [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "INTERNAL", "domain": "aisle.dev", "metadata": {"key": "value"}}
        ],
    }
    assert reply.headers["x-request-id"]


@pytest.mark.feature("errors")
async def test_details_say_which_field_and_when_to_retry(client: httpx.AsyncClient, dispatcher: LibraryDispatcher) -> None:
    """BadRequest and RetryInfo are written out, and HTTP's own headers say the same."""
    dispatcher.error = CallError(status_of(InvalidFieldError("user", "must not be empty")))
    details = (await client.post("/v1/fail", json={})).json()["details"]
    assert details[1] == {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"field": "user", "description": "must not be empty"}],
    }
    dispatcher.error = CallError(status_of(OverloadedError("full", retry_after_s=1.2)))
    assert (await client.post("/v1/fail", json={})).headers["retry-after"] == "2"
    dispatcher.error = CallError(status_of(UnauthenticatedError("no key came")))
    assert (await client.post("/v1/fail", json={})).headers["www-authenticate"] == "Bearer"


async def test_a_detail_of_an_unknown_type_is_written_as_bytes(client: httpx.AsyncClient, dispatcher: LibraryDispatcher) -> None:
    """An error is never lost because one of its details cannot be read here."""
    status = status_of(AisleError("x"))
    status.details.add(type_url="type.googleapis.com/no.Such", value=b"ab")
    dispatcher.error = CallError(status)
    details = (await client.post("/v1/fail", json={})).json()["details"]
    assert details[1] == {"@type": "type.googleapis.com/no.Such", "value": "YWI="}


async def test_a_fault_of_ours_is_a_500_without_its_text(client: httpx.AsyncClient, dispatcher: LibraryDispatcher) -> None:
    """An unexpected exception reaches the log, not the caller; the server goes on."""
    dispatcher.error = ZeroDivisionError("secret")
    reply = await client.post("/v1/fail", json={})
    assert (reply.status_code, "secret" in reply.text) == (500, False)
    dispatcher.error = None
    assert (await client.get("/v1/shelves/1/books/2")).status_code == 200


async def test_a_reply_without_a_json_form_is_an_internal_error(client: httpx.AsyncClient) -> None:
    """A reply that JSON cannot say is a 500 that says why."""
    reply = await client.get("/v1/shelves/1/books")
    assert (reply.status_code, reply.json()["code"]) == (500, code_pb2.INTERNAL)
    assert "outside the years 1 to 9999" in reply.json()["message"]


async def test_health_metrics_reference_and_pages(client: httpx.AsyncClient, dispatcher: LibraryDispatcher) -> None:
    """The fixed paths answer, and readiness says what is missing."""
    assert (await client.get("/healthz/live")).json() == {"status": "SERVING"}
    assert (await client.get("/healthz/ready")).json() == {"status": "SERVING"}
    dispatcher.missing = ["database: down"]
    ready = await client.get("/healthz/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "NOT_SERVING", "missing": ["database: down"]})
    metrics = await client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "aisle_call_seconds" in metrics.text
    assert (await client.get("/openapi.json")).json()["openapi"] == "3.1.0"
    assert "<h1>Library</h1>" in (await client.get("/docs")).text
    assert (await client.get("/")).text == "hello"


@pytest.mark.feature("cancel")
async def test_a_client_that_leaves_cancels_its_call(app: Gateway, dispatcher: LibraryDispatcher) -> None:
    """Disconnecting cancels the handler and sends nothing, and the gateway's own task ends normally."""
    body = json.dumps({"stringField": "wait"}).encode()
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    sent = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await dispatcher.waiting.wait()
        return {"type": "http.disconnect"}

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/echo",
        "raw_path": b"/v1/echo",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
    }
    await asyncio.wait_for(app(scope, receive, send), 10)
    assert dispatcher.cancelled.is_set()
    assert sent == []


async def test_a_stop_of_the_server_is_not_taken_for_a_leaving_client(app: Gateway, dispatcher: LibraryDispatcher) -> None:
    """Cancelling the request's task from outside goes through."""

    async def receive() -> dict[str, Any]:
        if not dispatcher.waiting.is_set() and dispatcher.last is None:
            return {"type": "http.request", "body": b'{"stringField": "wait"}'}
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(_event: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/echo",
        "raw_path": b"/v1/echo",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
    }
    task = asyncio.create_task(app(scope, receive, send))
    await asyncio.wait_for(dispatcher.waiting.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
