"""Protobuf messages to JSON text and back, by the ProtoJSON mapping.

Written output equals `google.protobuf.json_format`: lowerCamelCase names, unset fields left out, 64-bit integers as strings, bytes as
base64, enums by name. Reading takes both camelCase and proto names. Two differences: of a JSON key written twice in one object the last
counts, and numbers, base64 and enums must be written as JSON has them (see `scalars`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from server.errors import InvalidFieldError
from server.gateway.decoder import Decoder
from server.gateway.encoder import EncodeError, Encoder, descriptor_of
from server.gateway.scalars import MisfitError

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def parse_json(body: bytes) -> Any:
    """Returns the JSON value.

    Raises:
        InvalidFieldError: Not JSON, or not UTF-8. The message gives line and column.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:
            body.decode()
        except UnicodeDecodeError as bad:
            raise InvalidFieldError("body", f"is not UTF-8 at byte {bad.start}; send UTF-8", position=bad.start) from None
        raise InvalidFieldError(
            "body", f"malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}", position=error.pos
        ) from None


class Codec:
    """Turns messages into JSON text and back. Compiles a type at its first use; after that it only reads."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._encoder = Encoder(pool)
        self._decoder = Decoder(pool)

    def prepare(self, request: Descriptor, reply: Descriptor) -> None:
        """Compiles what a method needs, so that its first call does not wait for it."""
        self._decoder.prepare(request)
        self._encoder.function(reply)

    def value(self, message: Message) -> Any:
        """Returns the message as a JSON value. Its `float` fields are numpy scalars, which `dumps` writes in shortest form.

        Raises:
            EncodeError: The message has no JSON form.
        """
        try:
            return self._encoder.function(descriptor_of(message))(message, np.empty(1, np.float32))
        except EncodeError:
            raise
        except ValueError as error:
            raise EncodeError(str(error)) from error

    def encode(self, message: Message, field: FieldDescriptor | None = None) -> bytes:
        """Returns the message as compact UTF-8 JSON; with `field`, only that field's value.

        Raises:
            EncodeError: The message has no JSON form.
        """
        if field is None:
            return dumps(self.value(message))
        if not field.is_repeated and field.has_presence and not message.HasField(field.name):
            return b"null" if field.message_type is None else b"{}"
        try:
            return dumps(self._encoder.field_function(field)(getattr(message, field.name), np.empty(1, np.float32)))
        except ValueError as error:
            raise EncodeError(str(error)) from error

    def decode(self, value: Any, message: Message, field: str = "body") -> None:
        """Fills a fresh message from a JSON value.

        Args:
            value: As `parse_json` returns it.
            message: Must be empty.
            field: What an error calls the document itself.

        Raises:
            InvalidFieldError: The value does not fit; names the path to the field as the caller wrote it.
        """
        try:
            self._decoder.fill(value, message)
        except MisfitError as misfit:
            raise InvalidFieldError(misfit.field(field), misfit.message) from None

    def decode_field(self, value: Any, message: Message, field: FieldDescriptor) -> None:
        """Fills one field of a message from its JSON value. Raises as `decode`, with paths from `message`."""
        try:
            self._decoder.fill_field(value, message, field)
        except MisfitError as misfit:
            raise InvalidFieldError(misfit.field("body"), misfit.message) from None


def dumps(value: Any) -> bytes:
    """Returns compact JSON of what `Codec.value` gives."""
    return orjson.dumps(value, option=_OPTIONS)
