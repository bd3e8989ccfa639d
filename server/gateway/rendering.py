"""Replies of calls as JSON, or as raw bytes where the method says so."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from google.rpc import code_pb2

from server.errors import AisleError, InvalidArgumentError
from server.gateway.binding import HTTP_BODY
from server.gateway.codec import Codec
from server.gateway.encoder import EncodeError
from server.gateway.replies import Reply
from server.gateway.rules import Route
from server.interceptors.call import CallError
from server.interceptors.status import status_of


class Renderer:
    """Writes one route's replies.

    Args:
        route: Whose replies.
        codec: Knows the types.
        max_bytes: A larger reply, or a larger message of a stream, is an error.
    """

    def __init__(self, route: Route, codec: Codec, max_bytes: int) -> None:
        output = route.method.output_type
        self._codec = codec
        self._max_bytes = max_bytes
        self._field = output.fields_by_name[route.response_body] if route.response_body else None
        kind = output if self._field is None else self._field.message_type
        self.raw = kind is not None and kind.full_name == HTTP_BODY
        """Whether replies are bytes of any type rather than JSON."""

    def whole(self, message: Message, headers: dict[str, str], keep_s: int = 0) -> Reply:
        """Returns the reply of a unary call, which shared caches may keep for `keep_s` seconds.

        Raises:
            AisleError: It has no JSON form.
            CallError: It is too large.
        """
        if self.raw:
            return Reply(200, self.text(message), self.content_type(message), headers, keep_s)
        return Reply(200, self.text(message), headers=headers, keep_s=keep_s)

    def content_type(self, message: Message) -> str:
        """Returns the type of a raw message."""
        return self._body(message).content_type or "application/octet-stream"

    def text(self, message: Message) -> bytes:
        """Returns the message's JSON on one line, or its raw bytes. Raises as `whole`."""
        if self.raw:
            return self._checked(self._body(message).data)
        try:
            return self._checked(self._codec.encode(message, self._field))
        except EncodeError as error:
            raise AisleError(f"the reply has no JSON form: {error}") from error

    def _body(self, message: Message) -> Any:
        return message if self._field is None else getattr(message, self._field.name)

    def _checked(self, text: bytes) -> bytes:
        if len(text) <= self._max_bytes:
            return text
        status = status_of(
            InvalidArgumentError(
                f"the reply has {len(text)} bytes, more than {self._max_bytes}; ask for less at once", limit=self._max_bytes, size=len(text)
            )
        )
        status.code = code_pb2.OUT_OF_RANGE
        raise CallError(status)
