"""A request message from the parts of an HTTP request: path, query and body.

Body first, then query, then path: what the path says wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from server.errors import InvalidFieldError
from server.gateway.codec import Codec, parse_json
from server.gateway.decoder import no_such_field
from server.gateway.encoder import is_map
from server.gateway.rules import Route
from server.gateway.scalars import MisfitError, key_reader, text_reader
from server.gateway.wellknown import TEXT_DECODERS, TEXT_EXAMPLES, WRAPPERS

HTTP_BODY = "google.api.HttpBody"
"""The type that stands for a raw body, not JSON."""

MAX_QUERY_FIELDS = 2000
_MASK = "google.protobuf.FieldMask"
_JSON_VALUES = frozenset({"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"})
_KEYED = re.compile(r"(?P<name>[^\[\]]+)\[(?P<key>[^\[\]]*)\]")


class Binder:
    """Builds one route's request messages."""

    def __init__(self, route: Route, codec: Codec) -> None:
        """Stores what does not change between requests."""
        request = route.method.input_type
        self._route = route
        self._codec = codec
        self._type = request
        self._class: Callable[[], Message] = GetMessageClass(request)
        self._body = request.fields_by_name.get(route.body)
        self._bound = {variable.path for variable in route.template.variables}
        self._mask = _mask_field(route)

    @property
    def takes_body(self) -> bool:
        """Whether the request's body means anything."""
        return bool(self._route.body)

    @property
    def takes_raw_body(self) -> bool:
        """Whether the body is bytes of any type rather than JSON."""
        kind = self._body.message_type if self._body is not None else self._type if self._route.body == "*" else None
        return kind is not None and kind.full_name == HTTP_BODY

    def bind(self, values: Mapping[tuple[str, ...], str], query: bytes, body: bytes, content_type: str = "") -> Message:
        """Returns the request.

        Args:
            values: Path variables, percent-decoded.
            query: The query string as it came, without `?`.
            body: Whole body; empty for none.
            content_type: Of the body. Used by methods that take a raw one.

        Raises:
            InvalidFieldError: A value does not fit its field, or names none. Says which.
        """
        message = self._class()
        document = self._bind_body(message, body, content_type)
        if query:
            self._bind_query(message, query)
        for path, text in values.items():
            self._set(message, ".".join(path), [text])
        if self._mask is not None and not getattr(message, self._mask.name).paths:
            self._fill_mask(message, document)
        return message

    def _bind_body(self, message: Message, body: bytes, content_type: str) -> Any:
        if self.takes_raw_body:
            raw: Any = message if self._body is None else getattr(message, self._body.name)
            raw.content_type, raw.data = content_type, body
            return None
        if not body or body.isspace():
            return None
        document = parse_json(body)
        if self._body is not None:
            self._codec.decode_field(document, message, self._body)
        elif self._route.body == "*":
            self._codec.decode(document, message)
        elif document != {}:
            raise InvalidFieldError("body", f"{self._route.name} takes none over {self._route.http_method}; use query parameters")
        return document

    def _bind_query(self, message: Message, query: bytes) -> None:
        try:
            pairs = parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
        except UnicodeDecodeError:
            raise InvalidFieldError("query", "percent-encoded bytes are not UTF-8; encode the text as UTF-8 first") from None
        except ValueError:
            raise InvalidFieldError("query", f"has more than {MAX_QUERY_FIELDS} parameters; send fewer") from None
        grouped: dict[str, list[str]] = {}
        for name, text in pairs:
            grouped.setdefault(name, []).append(text)
        for name, texts in grouped.items():
            if not name.startswith("$"):  # system parameters, such as $.xgafv and $prettyPrint
                self._set(message, name, texts, from_query=True)

    def _set(self, message: Message, name: str, texts: list[str], *, from_query: bool = False) -> None:
        try:
            target, field, key = self._locate(message, name, from_query=from_query)
            if field.message_type is not None and field.message_type.full_name in _JSON_VALUES and not field.is_repeated:
                self._assign_json(target, field, texts)
            else:
                _assign(target, field, key, texts)
        except MisfitError as misfit:
            raise InvalidFieldError(name[:200], misfit.message) from None

    def _assign_json(self, message: Message, field: FieldDescriptor, texts: list[str]) -> None:
        """Fills a `Value`, `Struct` or `ListValue` from JSON text, as grpc-gateway does."""
        if len(texts) > 1:
            raise MisfitError(f"is given {len(texts)} times; it takes one value")
        try:
            value = parse_json(texts[0].encode())
        except InvalidFieldError as error:
            raise MisfitError(f"must be JSON: {error.description}") from None
        self._codec.decode_field(value, message, field)

    def _locate(self, message: Any, name: str, *, from_query: bool) -> tuple[Any, FieldDescriptor, str | None]:
        """Walks to the message that holds the named field.

        Raises:
            MisfitError: There is none, or it is not the query's to set.
        """
        keyed = _KEYED.fullmatch(name)
        descriptor, path = self._type, []
        *outer, last = (keyed["name"] if keyed else name).split(".")
        for part in outer:
            field = _field(descriptor, part)
            path.append(field.name)
            if field.message_type is None or field.is_repeated or _is_value(field.message_type):
                raise MisfitError(f"has {part!r}, which has no fields that a query can set")
            message, descriptor = getattr(message, field.name), field.message_type
        field = _field(descriptor, last)
        path.append(field.name)
        if from_query:
            self._check_free(path)
        return message, field, keyed["key"] if keyed else None

    def _check_free(self, path: list[str]) -> None:
        if self._route.body == "*":
            raise MisfitError(f"is a query parameter, and {self._route.name} takes its fields from the body; move it there")
        if path[0] == self._route.body:
            raise MisfitError("belongs to the body, not to the query")
        if tuple(path) in self._bound:
            raise MisfitError("is part of the path already; leave it out of the query")

    def _fill_mask(self, message: Message, document: Any) -> None:
        """Names in the mask the fields that the body holds: PATCH without a mask changes what was sent and no more."""
        assert self._mask is not None
        assert self._body is not None
        if isinstance(document, dict) and self._body.message_type is not None:
            bound = {".".join(path[1:]) for path in self._bound if path[0] == self._body.name}
            paths = [path for path in _paths(document, self._body.message_type) if path not in bound]
            getattr(message, self._mask.name).paths.extend(paths)


def _is_value(descriptor: Descriptor) -> bool:
    return descriptor.full_name in TEXT_DECODERS or descriptor.full_name in WRAPPERS


def _mask_field(route: Route) -> FieldDescriptor | None:
    masks = [field for field in route.method.input_type.fields if field.message_type is not None and field.message_type.full_name == _MASK]
    fills = route.http_method == "PATCH" and route.body not in {"", "*"} and len(masks) == 1 and not masks[0].is_repeated
    return masks[0] if fills else None


def _field(descriptor: Descriptor, name: str) -> FieldDescriptor:
    for field in descriptor.fields:
        if name in {field.json_name, field.name}:
            return field
    raise no_such_field(descriptor, name)


def _assign(message: Any, field: FieldDescriptor, key: str | None, texts: list[str]) -> None:
    if is_map(field):
        _assign_entry(getattr(message, field.name), field, key, texts)
        return
    if key is not None:
        raise MisfitError("has a key in brackets, but is not a map")
    if not field.is_repeated and len(texts) > 1:
        raise MisfitError(f"is given {len(texts)} times; it takes one value")
    oneof = field.containing_oneof
    if oneof is not None and (other := message.WhichOneof(oneof.name)) not in {None, field.name}:
        raise MisfitError(f"excludes {other!r}: send one of them")
    if field.message_type is not None:
        for text in texts:
            target = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
            target.SetInParent()
            _read_value(target, field.message_type, text)
    elif field.is_repeated:
        read = text_reader(field)
        getattr(message, field.name).extend([read(text) for text in texts])
    else:
        setattr(message, field.name, text_reader(field)(texts[0]))


def _assign_entry(entries: Any, field: FieldDescriptor, key: str | None, texts: list[str]) -> None:
    assert field.message_type is not None
    value = field.message_type.fields_by_name["value"]
    if key is None or value.message_type is not None:
        raise MisfitError("is a map: write name[key]=value, with a single value a key")
    if len(texts) > 1:
        raise MisfitError(f"is given {len(texts)} times; a key takes one value")
    entries[key_reader(field.message_type.fields_by_name["key"])(key)] = text_reader(value)(texts[0])


def _read_value(message: Any, descriptor: Descriptor, text: str) -> None:
    full_name = descriptor.full_name
    if full_name == _MASK:
        # Both spellings: clients copy mask paths from protos as often as from JSON.
        message.paths.extend(_snake(path.strip()) for path in text.split(",") if path.strip())
    elif full_name in TEXT_DECODERS:
        try:
            TEXT_DECODERS[full_name](message, text)
        except (ValueError, OverflowError):
            raise MisfitError(f"must be {TEXT_EXAMPLES[full_name]}, not {text[:60]!r}") from None
    elif full_name in WRAPPERS:
        message.value = text_reader(descriptor.fields_by_name["value"])(text)
    else:
        raise MisfitError("is a message; a query sets its fields one by one, as name.field=value")


def _snake(path: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", path)


def _paths(document: Mapping[str, Any], descriptor: Descriptor, prefix: str = "") -> list[str]:
    """Returns the mask paths of a JSON object: down to values, lists, maps and well-known types."""
    paths = []
    for name, value in document.items():
        field = _field(descriptor, name)
        child = field.message_type
        plain = child is not None and not field.is_repeated and not child.full_name.startswith("google.protobuf.")
        if plain and child is not None and isinstance(value, dict) and value:
            paths += _paths(value, child, f"{prefix}{field.name}.")
        else:
            paths.append(f"{prefix}{field.name}")
    return paths
