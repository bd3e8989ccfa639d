"""The whole HTTP door under arbitrary requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from server.gateway.build import build_gateway
from server.interceptors.call import Call
from tests.fixtures_gateway import library


class _Echo:
    """Echoes what it can, else answers an empty reply."""

    @property
    def methods(self) -> Mapping[str, MethodDescriptor]:
        """The library's methods."""
        return library().methods

    async def unary(self, call: Call, request: Message) -> Message:
        """Returns a reply of the method's type."""
        kind = GetMessageClass(library().methods[call.method].output_type)
        return request if isinstance(request, kind) else kind()


async def _ready() -> list[str]:
    return []


APP = build_gateway(
    _Echo(),
    pool=library().pool,
    comments={},
    ready=_ready,
    title="Library",
    version="1",
    max_body_bytes=1000,
    default_timeout_s=5.0,
    mounts={},
)


def request(method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, bytes]:
    """Returns status and body of one request, as a server would hand it over."""
    sent: list[Any] = []
    scope = {"type": "http", "method": method, "path": path.decode("latin-1"), "raw_path": path, "query_string": query, "headers": headers}
    received = iter([{"type": "http.request", "body": body}])

    async def receive() -> Any:
        event = next(received, None)
        if event is None:
            await asyncio.sleep(60)
        return event

    async def send(event: Any) -> None:
        sent.append(event)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(APP(scope, receive, send))
    finally:
        loop.close()
    return sent[0]["status"], sent[1]["body"]


_PATHS = st.sampled_from([b"/v1/echo", b"/v1/shelves/1/books", b"/v1/shelves/1/books/2", b"/v1/echo:nested", b"/v1/fail", b"/docs", b"/"])
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"content-type", b"content-length", b"content-encoding", b"grpc-timeout", b"x-request-id", b"traceparent", b"a"]),
        st.binary(max_size=12) | st.sampled_from([b"application/json", b"1S", b"5"]),
    ),
    max_size=3,
)


@settings(max_examples=200)
@given(
    st.sampled_from(["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "TRACE", "X"]),
    _PATHS | st.binary(max_size=30).map(lambda tail: b"/v1/" + tail),
    st.binary(max_size=20),
    _HEADERS,
    st.binary(max_size=40)
    | st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=5)).map(lambda d: json.dumps(d).encode()),
)
def test_no_request_is_a_fault_of_ours(method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Whatever comes, the reply is not a 500, and an error is a google.rpc.Status that says something."""
    status, reply = request(method, path, query, headers, body)
    assert status < 500 or status in {501, 504}
    if status >= 400 and method != "HEAD":
        error = json.loads(reply)
        assert error["code"] > 0
        assert error["message"]
        assert error["details"]
