"""The gRPC server: raw bytes in, the in-process dispatcher, raw bytes out; health and reflection beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_status import rpc_status

from server.errors import InvalidArgumentError, UnavailableError
from server.interceptors.call import Call, CallError, Dispatcher
from server.interceptors.status import status_of

_FORWARDED = "x-forwarded-for"
"""Sent by a proxy on this machine, which speaks for callers that are not on it."""

_TURNING_AWAY_S = 0.5
_LOOPBACK = ("ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]", "unix:")

REFLECTION = "grpc.reflection.v1.ServerReflection"
"""Its messages are those of v1alpha under another package, and so the same bytes."""

Answer = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]


@dataclass(slots=True)
class _Gate:
    """Whether calls are still let in."""

    shut: bool = False


@dataclass(frozen=True, slots=True)
class GrpcDoor:
    """A running server."""

    server: grpc.aio.Server
    health: health.HealthServicer
    port: int
    gate: _Gate

    async def drain(self, grace_s: float) -> None:
        """Says NOT_SERVING, refuses new calls, and waits for accepted ones, at most `grace_s` seconds.

        Stopping the server cancels calls that arrived and were not yet handed to us, which no client retries. So first, for half a second,
        calls are refused with UNAVAILABLE, which clients do retry, until hardly any comes.
        """
        await self.health.enter_graceful_shutdown()
        self.gate.shut = True
        await asyncio.sleep(min(_TURNING_AWAY_S, grace_s))
        await self.server.stop(grace_s)


class _Handlers(grpc.GenericRpcHandler):
    """Method name -> handler, made once."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Returns the handler; None is UNIMPLEMENTED."""
        return self._handlers.get(handler_call_details.method)


def _answer(name: str, dispatcher: Dispatcher, default_timeout_s: float, gate: _Gate) -> Answer:
    message_class = GetMessageClass(dispatcher.methods[name].input_type)

    async def answer(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if gate.shut:
            await context.abort_with_status(rpc_status.to_status(status_of(UnavailableError("server", "is stopping; retry on another"))))
        remaining: float | None = context.time_remaining()  # None without a deadline, whatever the stubs say
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        call = Call(
            method=name,
            door="grpc",
            metadata=metadata,
            deadline=time.monotonic() + (default_timeout_s if remaining is None else remaining),
            loopback=context.peer().startswith(_LOOPBACK) and _FORWARDED not in metadata,
        )
        try:
            reply = await dispatcher.unary(call, _parsed(message_class, body))
        except CallError as error:
            await context.abort_with_status(rpc_status.to_status(error.status))
        if call.response_metadata:
            await context.send_initial_metadata(tuple(call.response_metadata.items()))
        return reply.SerializeToString()

    return answer


def _parsed(message_class: type[Message], body: bytes) -> Message:
    """Returns the request.

    Raises:
        CallError: The bytes are no such message, or a string in it is not UTF-8.
    """
    try:
        return message_class.FromString(body)
    except DecodeError as error:
        name = message_class.DESCRIPTOR.full_name
        text = f"the request is not a {name}, or one of its strings is not UTF-8; encode it with the published proto"
        raise CallError(status_of(InvalidArgumentError(text, type=name))) from error


def _add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Offers reflection by its name of today, and by the one that older tools ask for."""
    servicer = reflection.aio.ReflectionServicer([*services, REFLECTION, reflection.SERVICE_NAME])
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (REFLECTION, reflection.SERVICE_NAME):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),))


@asynccontextmanager
async def open_grpc_door(
    dispatcher: Dispatcher, *, address: str, default_timeout_s: float, max_message_bytes: int, reuse_port: bool
) -> AsyncIterator[GrpcDoor]:
    """Yields the serving door; drains nothing by itself on exit, so call `drain` first.

    Raises:
        UnavailableError: The address cannot be had.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.so_reuseport", int(reuse_port)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ]
    )
    gate = _Gate()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
    for name in dispatcher.methods:
        handlers[name] = grpc.unary_unary_rpc_method_handler(_answer(name, dispatcher, default_timeout_s, gate))
    server.add_generic_rpc_handlers((_Handlers(handlers),))
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    services = sorted({name.split("/")[1] for name in dispatcher.methods})
    _add_reflection(server, [*services, HEALTH])
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:  # gRPC's own text says no more than that it failed
        raise UnavailableError(
            "grpc", f"cannot listen on AISLE_GRPC_ADDRESS={address}; choose another HOST:PORT, port 0 for a free one"
        ) from error
    await server.start()
    for service in ("", *services):
        await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield GrpcDoor(server, checks, port, gate)
    finally:
        await server.stop(None)
