"""The gRPC server: raw bytes in, the in-process dispatcher, raw bytes out; health and reflection beside it."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
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
from server.identity.certificates import names_of
from server.identity.tls import Tls
from server.interceptors.call import Call, CallError, Dispatcher, Said
from server.interceptors.peers import FORWARDED, address_of
from server.interceptors.status import status_of
from server.listening import all_gone, connections, listeners, turn_away

_TURNING_AWAY_S = 0.5
_MOST_STREAMS = 1024
"""Calls in flight on one connection. gRPC's default has no bound."""
_HANDSHAKE_MS = 20_000
_LOOPBACK = ("ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]", "unix:")

REFLECTION = "grpc.reflection.v1.ServerReflection"
"""Its messages are those of v1alpha under another package, and so the same bytes."""

Answer = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]
AnswerAll = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[None]]
Converse = Callable[[AsyncIterator[bytes], "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[None]]


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
    shared: bool
    """Whether other processes listen on the port."""

    async def leave(self, *, within_s: float) -> None:
        """Says NOT_SERVING and goes on answering until no client is connected, at most `within_s` seconds.

        Where other processes share the port, new connections are left to them. Connected clients go when they hear of it from health, or
        when their connection is as old as one may become. gRPC has no other way to send them away without ending calls on the way.
        """
        await self.health.enter_graceful_shutdown()
        if self.shared:
            await self._stop_listening()
        await all_gone(lambda: connections(self.port), within_s=within_s)

    async def _stop_listening(self) -> None:
        """Reaches for gRPC's sockets, since it closes them only together with its connections. It notes the end of accepting in its log."""
        listening = listeners(self.port)
        await turn_away(listening)
        for handle in listening:
            handle.shutdown(socket.SHUT_RDWR)
            handle.close()

    async def drain(self, grace_s: float) -> None:
        """Says NOT_SERVING, refuses new calls, and waits for accepted ones, at most `grace_s` seconds.

        Stopping the server cancels calls that arrived and were not yet handed to us, which no client retries. So where clients are
        connected, calls are first refused with UNAVAILABLE for half a second, which clients do retry, until hardly any comes.
        """
        await self.health.enter_graceful_shutdown()
        self.gate.shut = True
        await all_gone(lambda: connections(self.port), within_s=min(_TURNING_AWAY_S, grace_s))
        await self.server.stop(grace_s)


class _Handlers(grpc.GenericRpcHandler):
    """Method name -> handler, made once."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Returns the handler; None is UNIMPLEMENTED."""
        return self._handlers.get(handler_call_details.method)


@dataclass(frozen=True, slots=True)
class _Calls:
    """What the door knows of every call."""

    default_timeout_s: float
    gate: _Gate
    secure: bool

    async def of(self, name: str, context: grpc.aio.ServicerContext[bytes, bytes]) -> Call:
        """Returns the call's circumstances, or ends it where the door is shut."""
        if self.gate.shut:
            await context.abort_with_status(rpc_status.to_status(status_of(UnavailableError("server", "is stopping; retry on another"))))
        remaining: float | None = context.time_remaining()  # None without a deadline, whatever the stubs say
        peer = context.peer()
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        return Call(
            method=name,
            door="grpc",
            metadata=metadata,
            deadline=time.monotonic() + (self.default_timeout_s if remaining is None else remaining),
            loopback=peer.startswith(_LOOPBACK) and FORWARDED not in metadata,
            peer=address_of(peer),
            certificate=_certificate(context) if self.secure else (),
        )


def _answer(name: str, dispatcher: Dispatcher, calls: _Calls) -> Answer:
    message_class = GetMessageClass(dispatcher.methods[name].input_type)

    async def answer(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        call = await calls.of(name, context)
        try:
            reply = await dispatcher.unary(call, _parsed(message_class, body))
        except CallError as error:
            await context.abort_with_status(rpc_status.to_status(error.status))
        if call.response_metadata:
            await context.send_initial_metadata(tuple(call.response_metadata.items()))
        return reply.SerializeToString()

    return answer


def _answer_all(name: str, dispatcher: Dispatcher, calls: _Calls) -> AnswerAll:
    message_class = GetMessageClass(dispatcher.methods[name].input_type)

    async def answer(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        call = await calls.of(name, context)
        try:
            await _write(await dispatcher.stream(call, _parsed(message_class, body)), call, context)
        except CallError as error:
            await context.abort_with_status(rpc_status.to_status(error.status))

    return answer


def _converse(name: str, dispatcher: Dispatcher, calls: _Calls) -> Converse:
    message_class = GetMessageClass(dispatcher.methods[name].input_type)

    async def said(bodies: AsyncIterator[bytes]) -> AsyncGenerator[Said, None]:
        async for body in bodies:
            try:
                yield _parsed(message_class, body)
            except CallError as error:
                yield error

    async def answer(bodies: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        call = await calls.of(name, context)
        try:
            await _write(await dispatcher.converse(call, said(bodies)), call, context)
        except CallError as error:
            await context.abort_with_status(rpc_status.to_status(error.status))

    return answer


async def _write(replies: AsyncGenerator[Message, None], call: Call, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    """Writes all replies of a call that is open, and closes them."""
    async with aclosing(replies):
        await context.send_initial_metadata(tuple(call.response_metadata.items()))
        async for reply in replies:
            # Written here rather than yielded, so that a cancellation that meets a write closes the replies too.
            await context.write(reply.SerializeToString())


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


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Returns what the port needs. gRPC speaks TLS 1.2 and above by itself."""
    return grpc.ssl_server_credentials([(tls.key, tls.certificate)], tls.client_ca, require_client_auth=tls.client_ca is not None)


def _certificate(context: grpc.aio.ServicerContext[bytes, bytes]) -> tuple[str, ...]:
    """Returns the names in the client's certificate, which the handshake has verified."""
    seen = context.auth_context()

    def texts(name: str) -> list[str]:
        return [value.decode(errors="replace") for value in seen.get(name, ())]

    common = tuple((("commonName", name),) for name in texts("x509_common_name"))
    return names_of(common, [*(("URI", uri) for uri in texts("peer_uri")), *(("DNS", name) for name in texts("peer_dns"))])


@asynccontextmanager
async def open_grpc_door(
    dispatcher: Dispatcher,
    *,
    address: str,
    default_timeout_s: float,
    max_message_bytes: int,
    reuse_port: bool,
    connection_age_s: float = 0.0,
    tls: Tls | None = None,
) -> AsyncIterator[GrpcDoor]:
    """Yields the serving door; drains nothing by itself on exit, so call `drain` first.

    Args:
        dispatcher: Who answers.
        address: HOST:PORT; port 0 chooses a free one.
        default_timeout_s: Of a call without a deadline.
        max_message_bytes: Either way.
        reuse_port: Whether other processes listen on the port.
        connection_age_s: Seconds, give or take a tenth, after which a connection's client is asked to open another (GOAWAY). Calls that are
            under way on it, streams too, go on. 0: never.
        tls: The server's certificate. None: plain.

    Raises:
        UnavailableError: The address cannot be had.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.so_reuseport", int(reuse_port)),
            ("grpc.max_concurrent_streams", _MOST_STREAMS),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            *([("grpc.max_connection_age_ms", max(1, int(connection_age_s * 1000)))] if connection_age_s else []),
        ]
    )
    gate = _Gate()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
    calls = _Calls(default_timeout_s, gate, tls is not None)
    for name, method in dispatcher.methods.items():
        if method.client_streaming:
            handlers[name] = grpc.stream_stream_rpc_method_handler(_converse(name, dispatcher, calls))
        elif method.server_streaming:
            handlers[name] = grpc.unary_stream_rpc_method_handler(_answer_all(name, dispatcher, calls))
        else:
            handlers[name] = grpc.unary_unary_rpc_method_handler(_answer(name, dispatcher, calls))
    server.add_generic_rpc_handlers((_Handlers(handlers),))
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    services = sorted({name.split("/")[1] for name in dispatcher.methods})
    _add_reflection(server, [*services, HEALTH])
    try:
        port = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, _credentials(tls))
    except RuntimeError as error:  # gRPC's own text says no more than that it failed
        raise UnavailableError(
            "grpc", f"cannot listen on AISLE_GRPC_ADDRESS={address}; choose another HOST:PORT, port 0 for a free one"
        ) from error
    await server.start()
    for service in ("", *services):
        await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield GrpcDoor(server, checks, port, gate, reuse_port)
    finally:
        await server.stop(None)
