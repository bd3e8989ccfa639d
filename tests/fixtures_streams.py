"""A chat service for tests of streams: every kind of streaming method, on a real gRPC server that says what became of its calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from server.errors import InvalidFieldError
from server.gateway.build import build_gateway
from server.gateway.descriptors import Described, load_set
from server.gateway.forwarding import open_forwarding
from server.gateway.policy import Policy
from server.gateway.server import open_gateway
from server.interceptors.status import status_of
from tests.fixtures_gateway import compile_proto

PROTO = """
syntax = "proto3";
package chat.v1;

import "google/api/annotations.proto";
import "google/api/httpbody.proto";

// Talks.
service Chat {
  // Counts, as fast as it is read.
  rpc Count(CountRequest) returns (stream Line) {
    option (google.api.http) = {get: "/v1/{room=rooms/*}:count" additional_bindings { post: "/v1/{room=rooms/*}:count" body: "*" }};
  }
  // Counts, and replies with the text alone.
  rpc Texts(CountRequest) returns (stream Line) {
    option (google.api.http) = {get: "/v1/{room=rooms/*}/texts" response_body: "text"};
  }
  // Adds up what the client says.
  rpc Collect(stream Line) returns (Summary) {
    option (google.api.http) = {post: "/v1/{room=rooms/*}:collect" body: "*"};
  }
  // Answers each line.
  rpc Talk(stream Line) returns (stream Line) {
    option (google.api.http) = {get: "/v1/{room=rooms/*}:talk"};
  }
  // Sends a file in parts.
  rpc Download(CountRequest) returns (stream google.api.HttpBody) {
    option (google.api.http) = {get: "/v1/{room=rooms/*}/file"};
  }
}
message CountRequest {
  string room = 1;
  // Messages to send; 0 sends for ever.
  int32 count = 2;
  // Bytes of text in each.
  int32 size = 3;
  // The call fails after so many messages, if above 0; at once, if below.
  int32 fail_after = 4;
  // Nothing more comes after so many messages, if above 0; nothing at all, if below.
  int32 silent_after = 5;
}
message Line { string room = 1; int32 number = 2; string text = 3; }
message Summary { int32 lines = 1; string room = 2; string texts = 3; }
"""


@lru_cache(maxsize=1)
def chat() -> Described:
    """The chat's descriptors, in a pool of their own."""
    return load_set(compile_proto(PROTO, "--include_imports"))


def line(**fields: Any) -> Any:
    """Returns a `Line`."""
    return GetMessageClass(chat().pool.FindMessageTypeByName("chat.v1.Line"))(**fields)


class ChatServer(grpc.GenericRpcHandler):
    """The service. Keeps the last call's metadata, how many replies it has written, and whether it was cancelled."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.remaining_s: float | None = None
        self.written = 0
        self.read = 0
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.ended = asyncio.Event()
        """Set when a handler ends, however; gRPC tells one that waits for requests of a cancellation by their end."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the method's handler."""
        method = chat().methods[handler_call_details.method]
        answer = getattr(self, f"_{method.name.lower()}")

        async def watched(requests: Any, context: Any) -> Any:
            self.metadata, self.written, self.read = dict(context.invocation_metadata()), 0, 0
            self.remaining_s = context.time_remaining()
            self.open.set()
            try:
                async for reply in answer(requests, context):
                    if not method.server_streaming:
                        return reply
                    await context.write(reply)
                    self.written += 1
            except (asyncio.CancelledError, grpc.aio.InternalError):  # the latter where a write meets the cancellation
                self.cancelled.set()
                raise
            finally:
                self.ended.set()
            return None

        makers = {
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make = makers[method.client_streaming, method.server_streaming]
        return make(watched, GetMessageClass(method.input_type).FromString, lambda reply: reply.SerializeToString())

    async def _count(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata((("x-room", request.room),))
        number = 0
        while not request.count or number < request.count:
            if request.fail_after < 0 or number == request.fail_after > 0:
                await context.abort_with_status(rpc_status.to_status(status_of(InvalidFieldError("count", "was told to fail"))))
            if request.silent_after < 0 or number == request.silent_after > 0:
                await asyncio.sleep(600)
            number += 1
            yield line(room=request.room, number=number, text="x" * request.size)

    _texts = _count

    async def _download(self, request: Any, context: Any) -> AsyncIterator[Any]:
        body = GetMessageClass(chat().pool.FindMessageTypeByName("google.api.HttpBody"))
        async for one in self._count(request, context):
            yield body(content_type="text/csv", data=f"{one.number};\n".encode())

    async def _collect(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        texts, room = [], ""
        async for one in requests:
            self.read += 1
            texts.append(one.text)
            room = one.room
        yield GetMessageClass(chat().pool.FindMessageTypeByName("chat.v1.Summary"))(lines=len(texts), room=room, texts="|".join(texts))

    async def _talk(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for one in requests:
            self.read += 1
            if one.text == "fail":
                await context.abort_with_status(rpc_status.to_status(status_of(InvalidFieldError("text", "was told to fail"))))
            if one.text == "deaf":
                await asyncio.sleep(600)
            yield line(room=one.room, number=self.read, text=one.text.upper())
        yield line(text="bye")


@asynccontextmanager
async def chat_gateway(
    policy: Policy | None = None, *, idle_s: float = 15.0, max_bytes: int = 1_000_000
) -> AsyncIterator[tuple[ChatServer, str]]:
    """Yields a running chat server and the address of a gateway before it."""
    server = grpc.aio.server()
    handler = ChatServer()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_forwarding(f"127.0.0.1:{port}", chat().methods, max_message_bytes=max_bytes) as dispatcher:
            app = build_gateway(
                dispatcher,
                pool=chat().pool,
                comments=chat().comments,
                ready=dispatcher.ready,
                title="Chat",
                version="1",
                max_body_bytes=max_bytes,
                default_timeout_s=20.0,
                mounts={},
                policy=policy,
                idle_s=idle_s,
            )
            async with open_gateway(app, "127.0.0.1:0", drain_s=5.0, on_stop=app.end_streams, max_frame_bytes=max_bytes) as address:
                yield handler, address
    finally:
        await server.stop(None)
