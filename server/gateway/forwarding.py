"""A dispatcher that forwards calls over a gRPC channel: the stand-alone gateway."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import EncodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status

from server.errors import InvalidArgumentError
from server.interceptors.call import Call, CallError
from server.interceptors.status import status_of

_DETAILS = "grpc-status-details-bin"


class ForwardingDispatcher:
    """Answers calls by asking an upstream server."""

    def __init__(self, channel: grpc.aio.Channel, methods: Mapping[str, MethodDescriptor]) -> None:
        self._channel = channel
        self._methods = methods
        self._stubs: dict[str, grpc.aio.UnaryUnaryMultiCallable[Message, Message]] = {}

    @property
    def methods(self) -> Mapping[str, MethodDescriptor]:
        """Every method of the descriptor set, by full name with slashes."""
        return self._methods

    async def unary(self, call: Call, request: Message) -> Message:
        """Returns the upstream's reply, and its initial metadata in the call.

        Raises:
            CallError: The upstream failed, or cannot be reached.
        """
        if not request.IsInitialized():  # proto2 only
            raise CallError(status_of(InvalidArgumentError(_what_is_missing(request))))
        stub = self._stubs.get(call.method) or self._stub(call.method)
        outgoing = stub(request, timeout=max(0.0, call.deadline - time.monotonic()), metadata=_metadata(call.metadata))
        try:
            reply = await outgoing
            metadata = await outgoing.initial_metadata()
        except grpc.aio.AioRpcError as error:
            raise CallError(_status(error)) from error
        call.response_metadata.update({key: value for key, value in metadata or () if isinstance(value, str)})
        return reply

    def _stub(self, name: str) -> grpc.aio.UnaryUnaryMultiCallable[Message, Message]:
        reply_class = GetMessageClass(self._methods[name].output_type)
        stub: grpc.aio.UnaryUnaryMultiCallable[Message, Message] = self._channel.unary_unary(
            name, request_serializer=lambda message: message.SerializeToString(), response_deserializer=reply_class.FromString
        )
        self._stubs[name] = stub
        return stub

    async def ready(self) -> Sequence[str]:
        """Returns what is missing: the upstream, while the channel is not connected to it."""
        state = self._channel.get_state(try_to_connect=True)
        return [] if state == grpc.ChannelConnectivity.READY else [f"upstream: {state.name.lower()}"]


def _metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Returns what gRPC can carry: printable ASCII. `user-agent` is the channel's own."""
    return tuple((key, value) for key, value in headers.items() if value.isascii() and value.isprintable() and key != "user-agent")


def _what_is_missing(request: Message) -> str:
    try:
        request.SerializeToString()
    except EncodeError as error:
        return str(error)
    return ""


def _status(error: grpc.aio.AioRpcError) -> Status:
    """Returns the status that the upstream sent, with its details where it sent any."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            return Status.FromString(value)
    code: int = error.code().value[0]
    return Status(code=code, message=error.details() or error.code().name)


@asynccontextmanager
async def open_forwarding(
    upstream: str, methods: Mapping[str, MethodDescriptor], *, max_message_bytes: int
) -> AsyncIterator[ForwardingDispatcher]:
    """Yields a dispatcher over a plaintext channel to `HOST:PORT`. Connecting starts at once and is retried for ever."""
    options = [("grpc.max_receive_message_length", max_message_bytes), ("grpc.max_send_message_length", max_message_bytes)]
    async with grpc.aio.insecure_channel(upstream, options=options) as channel:
        channel.get_state(try_to_connect=True)
        yield ForwardingDispatcher(channel, methods)
