"""A dispatcher that forwards calls over a gRPC channel: the stand-alone gateway."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import EncodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status

from server.errors import InvalidArgumentError
from server.gateway.http import TIMEOUT
from server.interceptors.call import Call, CallError, Said
from server.interceptors.status import status_of

REPLY_HEADERS = frozenset(
    {"x-request-id", "cache-control", "etag", "content-language", "retry-after", "location", "deprecation", "sunset", "link"}
)
"""Metadata of replies that become headers under their own name. Others stand behind a prefix, as in grpc-gateway."""

_HEADER_PREFIX = "grpc-metadata-"
_TRAILER_PREFIX = "grpc-trailer-"
_DETAILS = "grpc-status-details-bin"
_KEY = re.compile(r"[0-9a-z_.-]+")
_OWN = frozenset({"user-agent", "content-type", "te", TIMEOUT})
"""Set by the channel itself."""

Metadata = Iterable[tuple[str, str | bytes]]


class ForwardingDispatcher:
    """Answers calls by asking an upstream server.

    Args:
        channel: To the upstream.
        methods: Every method of it, by full name with slashes.
        reply_headers: Metadata of replies that become headers under their own name, beside `REPLY_HEADERS`.
    """

    def __init__(self, channel: grpc.aio.Channel, methods: Mapping[str, MethodDescriptor], reply_headers: frozenset[str]) -> None:
        self._channel = channel
        self._methods = methods
        self._bare = REPLY_HEADERS | reply_headers
        self._stubs: dict[str, Any] = {}

    @property
    def methods(self) -> Mapping[str, MethodDescriptor]:
        """Every method of the descriptor set, by full name with slashes."""
        return self._methods

    async def unary(self, call: Call, request: Message) -> Message:
        """Returns the upstream's reply, and its initial and trailing metadata in the call.

        Raises:
            CallError: The upstream failed, or cannot be reached.
        """
        _check_whole(request)
        outgoing = self._stub(call.method)(request, timeout=max(0.0, call.deadline - time.monotonic()), metadata=metadata_of(call.metadata))
        try:
            reply: Message = await outgoing
            self._hand_over(call, await outgoing.initial_metadata() or (), await outgoing.trailing_metadata() or ())
        except grpc.aio.AioRpcError as error:
            self._hand_over(call, error.initial_metadata() or (), error.trailing_metadata() or ())
            raise CallError(_status(error)) from error
        return reply

    async def stream(self, call: Call, request: Message) -> AsyncGenerator[Message, None]:
        """Opens a server-streaming call on the upstream. Closing the replies cancels it.

        Raises:
            CallError: Reading the replies may raise it: the upstream failed, or cannot be reached.
        """
        _check_whole(request)
        return self._replies(call, self._stub(call.method)(request, timeout=_limit_s(call), metadata=metadata_of(call.metadata)))

    async def converse(self, call: Call, requests: AsyncIterator[Said]) -> AsyncGenerator[Message, None]:
        """Opens a call whose client streams. Requests are read as the upstream takes them; one that could not be read ends the call.

        As `stream` otherwise.
        """
        faults: list[CallError] = []
        outgoing = self._stub(call.method)(_whole(requests, faults), timeout=_limit_s(call), metadata=metadata_of(call.metadata))
        return self._replies(call, outgoing, faults)

    async def _replies(self, call: Call, outgoing: Any, faults: Sequence[CallError] = ()) -> AsyncGenerator[Message, None]:
        try:
            if not self._methods[call.method].server_streaming:
                yield await outgoing
                return
            begun = False
            while (reply := await outgoing.read()) is not grpc.aio.EOF:
                if not begun:
                    self._hand_over(call, await outgoing.initial_metadata() or (), ())
                    begun = True
                yield reply
        except grpc.aio.AioRpcError as error:
            raise CallError(_status(error)) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if faults and (task is None or not task.cancelling()):  # the channel cancels a call whose requests fail
                raise faults[0] from None
            raise
        finally:
            outgoing.cancel()

    def _hand_over(self, call: Call, initial: Metadata, trailing: Metadata) -> None:
        for prefix, metadata in ((_HEADER_PREFIX, initial), (_TRAILER_PREFIX, trailing)):
            for key, value in metadata:
                if not key.startswith("grpc-"):
                    text = value if isinstance(value, str) else base64.b64encode(value).decode()
                    call.response_metadata[key if key in self._bare else f"{prefix}{key}"] = text

    def _stub(self, name: str) -> Any:
        if name not in self._stubs:
            method = self._methods[name]
            makers: dict[tuple[bool, bool], Callable[..., Any]] = {
                (False, False): self._channel.unary_unary,
                (False, True): self._channel.unary_stream,
                (True, False): self._channel.stream_unary,
                (True, True): self._channel.stream_stream,
            }
            self._stubs[name] = makers[method.client_streaming, method.server_streaming](
                name,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
        return self._stubs[name]

    async def ready(self) -> Sequence[str]:
        """Returns what is missing: the upstream, while the channel is not connected to it."""
        state = self._channel.get_state(try_to_connect=True)
        return [] if state == grpc.ChannelConnectivity.READY else [f"upstream: {state.name.lower()}"]


def _limit_s(call: Call) -> float | None:
    """Returns the seconds that a stream may last; None if its caller did not say."""
    return max(0.0, call.deadline - time.monotonic()) if TIMEOUT in call.metadata else None


def metadata_of(headers: Mapping[str, str]) -> tuple[tuple[str, str | bytes], ...]:
    """Returns what gRPC can carry: printable ASCII, and bytes where a name ends in `-bin` and its value is base64."""
    metadata: list[tuple[str, str | bytes]] = []
    for key, value in headers.items():
        if key in _OWN or not _KEY.fullmatch(key):
            continue
        if key.endswith("-bin"):
            try:
                metadata.append((key, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)))
            except (binascii.Error, ValueError):
                raise CallError(status_of(InvalidArgumentError(f"the header of {key!r} must be base64", header=key))) from None
        elif value.isascii() and value.isprintable():
            metadata.append((key, value))
    return tuple(metadata)


def _check_whole(request: Message) -> None:
    """Refuses a request that lacks a required field, which only proto2 has.

    Raises:
        CallError: It lacks one.
    """
    if not request.IsInitialized():
        raise CallError(status_of(InvalidArgumentError(_what_is_missing(request))))


async def _whole(requests: AsyncIterator[Said], faults: list[CallError]) -> AsyncIterator[Message]:
    """Yields the requests; at one that cannot be sent it fails, having noted why."""
    async for request in requests:
        try:
            if isinstance(request, CallError):
                raise request
            _check_whole(request)
        except CallError as fault:
            faults.append(fault)
            raise
        yield request


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


def open_channel(upstream: str, *, max_message_bytes: int, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """Returns a channel to `HOST:PORT`, plaintext without credentials. Close it, or use it as a context manager."""
    options = [("grpc.max_receive_message_length", max_message_bytes), ("grpc.max_send_message_length", max_message_bytes)]
    if credentials is None:
        return grpc.aio.insecure_channel(upstream, options=options)
    return grpc.aio.secure_channel(upstream, credentials, options=options)


@asynccontextmanager
async def open_forwarding(
    upstream: str,
    methods: Mapping[str, MethodDescriptor],
    *,
    max_message_bytes: int,
    credentials: grpc.ChannelCredentials | None = None,
    reply_headers: frozenset[str] = frozenset(),
) -> AsyncIterator[ForwardingDispatcher]:
    """Yields a dispatcher over a channel to `HOST:PORT`. Connecting starts at once and is retried for ever.

    Args:
        upstream: The gRPC server.
        methods: Its methods, by full name with slashes.
        max_message_bytes: The largest message, either way.
        credentials: For TLS; plaintext without.
        reply_headers: Metadata of replies that become headers under their own name, beside `REPLY_HEADERS`.
    """
    async with open_channel(upstream, max_message_bytes=max_message_bytes, credentials=credentials) as channel:
        channel.get_state(try_to_connect=True)
        yield ForwardingDispatcher(channel, methods, reply_headers)
