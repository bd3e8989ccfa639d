"""Writes docs/api.md from the descriptor set: services, methods, HTTP paths, scopes, messages, enums, error reasons.

`poe docs` runs it; a test compares the committed page with a fresh one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from aisle.v1 import access_pb2
from server.gateway.descriptors import Described, load_set
from server.gateway.rules import Route, build_table
from server.gateway.schemas import behaviors

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"

_PACKAGE = "aisle.v1."
_REASONS = "aisle.v1.ErrorReason"
_HEAD = """# API

<!-- Written by `poe docs` from the protos. Edit those, not this page. -->

Every method is offered by gRPC (`127.0.0.1:50051` unless `AISLE_GRPC_ADDRESS` says otherwise; server reflection and `grpc.health.v1`
beside it) and by HTTP with JSON (`127.0.0.1:8080`). Both doors run the same checks and the same code. A running server shows the same
reference at `/docs` and as OpenAPI 3.1 at `/openapi.json`; `/healthz/live`, `/healthz/ready` and `/metrics` (Prometheus) are there too.

| metadata or header | what it does |
|---|---|
| `authorization: Bearer KEY`, or `x-api-key: KEY` | Says who calls. Made by `aisle keys create`, which prints it once. |
| `x-aisle-consistency-token` | From IngestEvents: the call sees those events, as by the field `consistency_token` of its request. |
| `x-aisle-priority: batch` | The call can wait: under overload it is refused first. |
| `x-request-id` | Comes back with the reply, and stands in the log. |
| `grpc-timeout` | How long the caller waits, such as `500m` for half a second. |
| `traceparent` | W3C trace context. |

A key has scopes; `items` includes `items.read`, and so on, and `admin` stands for all. Calls from the server's own machine may come
without a key unless `AISLE_REQUIRE_KEY` is set, but not from web pages of another origin. A JSON body needs
`content-type: application/json`.

In JSON, field names are lowerCamelCase (snake_case is read too), 64-bit integers are strings, bytes are base64, times RFC 3339. Vectors are
bytes: little-endian float32.
"""
_ERRORS = """## Errors

A failed call carries a `google.rpc.Status`. Its details have one `ErrorInfo` with a reason of this table and the domain `aisle.dev`, a
`BadRequest` where one field is wrong, and a `RetryInfo` where coming back later helps. Retry UNAVAILABLE, and RESOURCE_EXHAUSTED after
its delay.
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(api_page(), encoding="utf-8")


def api_page() -> str:
    """Returns the page that docs/api.md should hold."""
    described = load_set((ROOT / "proto" / "gen" / "aisle" / "descriptors.binpb").read_bytes())
    ordered: dict[str, ServiceDescriptor] = {}
    for method in described.methods.values():
        if method.containing_service is not None:
            ordered[method.containing_service.full_name] = method.containing_service
    writer = _Writer(described)
    parts = [_HEAD, writer.overview(ordered.values())]
    parts += [writer.service(service) for service in ordered.values()]
    parts += [writer.shared(), writer.reasons()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


class _Writer:
    """Turns descriptors into Markdown, and keeps count of the types that it named."""

    def __init__(self, described: Described) -> None:
        self._pool = described.pool
        self._comments = described.comments
        self._routes = _routes_by_method(described.methods)
        self._messages: dict[str, Descriptor] = {}
        self._enums: dict[str, EnumDescriptor] = {}
        self._written: set[str] = set()

    def overview(self, services: Iterable[ServiceDescriptor]) -> str:
        """Returns the table of all methods."""
        rows = ["| method | HTTP | scope |", "|---|---|---|"]
        for service in services:
            for method in service.methods:
                paths = "<br>".join(f"`{route.http_method} {route.template.text}`" for route in self._routes[_wire_name(method)])
                rows.append(f"| [{service.name}.{method.name}](#{method.name.lower()}) | {paths} | `{_scope(method)}` |")
        return "\n".join(rows) + "\n"

    def service(self, service: ServiceDescriptor) -> str:
        """Returns the section of one service."""
        parts = [f"## {service.name}", "", self._comment(service.full_name)]
        for method in service.methods:
            parts += ["", f"### {method.name}", "", self._comment(method.full_name), ""]
            parts += [*self._fields("Request", method.input_type), *self._fields("Reply", method.output_type)]
        return "\n".join(parts) + "\n"

    def shared(self) -> str:
        """Returns the sections of the types that methods' fields name, and that those name in turn."""
        parts = ["## Messages"]
        while waiting := sorted(self._messages.keys() - self._written):
            for name in waiting:
                parts += ["", f"### {_short(name)}", "", self._comment(name), "", *self._fields("", self._messages[name])]
        parts += ["", "## Enums"]
        for name in sorted(self._enums):
            parts += ["", f"### {_short(name)}", "", self._comment(name), "", "| value | |", "|---|---|"]
            parts += [f"| `{value.name}` | {_cell(self._comment(f'{name}.{value.name}'))} |" for value in self._enums[name].values]
        return "\n".join(parts) + "\n"

    def reasons(self) -> str:
        """Returns the table of error reasons."""
        values = [value.name for value in self._pool.FindEnumTypeByName(_REASONS).values if value.number]
        rows = [f"| `{name}` | {_cell(self._comment(f'{_REASONS}.{name}'))} |" for name in values]
        return "\n".join([_ERRORS, "| reason | |", "|---|---|", *rows]) + "\n"

    def _fields(self, title: str, message: Descriptor) -> Iterator[str]:
        """Yields the lines of a message's fields. A reply that is a resource is linked, not repeated."""
        if title == "Reply" and not message.name.endswith("Response"):
            yield f"Reply: {self._type_of(message)}."
            yield ""
            return
        self._written.add(message.full_name)
        if title:
            yield f"{title}:" if message.fields else f"{title}: no fields."
            yield ""
        if message.fields:
            yield "| field | type | |"
            yield "|---|---|---|"
        for field in message.fields:
            note = ", required" if field_behavior_pb2.REQUIRED in behaviors(field) else ""
            yield f"| `{field.name}` | {self._field_type(field)}{note} | {_cell(self._comment(field.full_name))} |"
        yield ""

    def _field_type(self, field: FieldDescriptor) -> str:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            return f"map of {self._field_type(key)} to {self._field_type(value)}"
        if field.message_type is not None:
            name = self._type_of(field.message_type)
        elif field.enum_type is not None:
            self._enums[field.enum_type.full_name] = field.enum_type
            name = _link(field.enum_type.full_name)
        else:
            name = _SCALARS[field.type]
        return f"list of {name}" if field.is_repeated else name

    def _type_of(self, message: Descriptor) -> str:
        if not message.full_name.startswith(_PACKAGE):
            return f"`{message.full_name}`"
        self._messages[message.full_name] = message
        return _link(message.full_name)

    def _comment(self, name: str) -> str:
        return self._comments.get(name, "")


_SCALARS = {getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower() for name in dir(FieldDescriptor) if name.startswith("TYPE_")}


def _routes_by_method(methods: Mapping[str, MethodDescriptor]) -> dict[str, list[Route]]:
    routes: dict[str, list[Route]] = {name: [] for name in methods}
    for route in sorted(build_table(methods).routes, key=lambda one: one.index):
        routes[route.name].append(route)
    return routes


def _wire_name(method: MethodDescriptor) -> str:
    service, _, name = method.full_name.rpartition(".")
    return f"/{service}/{name}"


def _scope(method: MethodDescriptor) -> str:
    return str(method.GetOptions().Extensions[access_pb2.required_scope])


def _short(name: str) -> str:
    return name.removeprefix(_PACKAGE)


def _link(name: str) -> str:
    short = _short(name)
    anchor = short.removesuffix("Response")  # a reply's fields stand under its method
    return f"[{short}](#{anchor.lower().replace('.', '')})"


def _cell(text: str) -> str:
    """Returns text as one table cell."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
