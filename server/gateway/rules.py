"""HTTP rules of gRPC methods, compiled into a route table.

The table is a trie over path segments. At each segment a literal wins over `*`, and `*` over `**`. A request visits each node of the trie
at most once, so a hostile path costs no more than the table is large, however many slashes it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from server.errors import InvalidArgumentError, InvalidFieldError
from server.gateway.templates import Template, TemplateError, parse_template

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SLASH = re.compile(r"(%2[Ff])")

Leaf = dict[str, "Route"]
"""Routes of one path by HTTP method."""


@dataclass(frozen=True, slots=True)
class Route:
    """One binding of a gRPC method to an HTTP method and a path."""

    name: str
    """Full name with slashes, such as `/aisle.v1.ItemService/GetItem`."""
    method: MethodDescriptor
    http_method: str
    """Upper case, or `*` for any."""
    template: Template
    body: str
    """Name of the field that the body fills; `*` for the whole request; empty for none."""
    response_body: str
    """Name of the field that is the reply; empty for the whole reply."""
    index: int
    """0 for the rule itself, 1 and up for its additional bindings."""


@dataclass(frozen=True, slots=True)
class Match:
    """A route, and the values of its path variables."""

    route: Route
    values: Mapping[tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class Miss:
    """No route. `allowed` holds the methods that the path does have: empty means that nothing is there."""

    allowed: frozenset[str]


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    star: _Node | None = None
    leaves: dict[str, Leaf] = field(default_factory=dict)
    """By verb: the path ends here."""
    deep: dict[str, Leaf] = field(default_factory=dict)
    """By verb: `**` takes the rest."""


def _check_field(message: Descriptor, path: tuple[str, ...], template: str) -> None:
    """Refuses a variable that is not a singular scalar, enum or well-known value of the request."""
    at: Descriptor | None = message
    found: FieldDescriptor | None = None
    for name in path:
        found = at.fields_by_name.get(name) if at is not None else None
        if found is None or found.is_repeated:
            raise TemplateError(f"{template!r} binds {'.'.join(path)!r}, which is not a singular field of {message.full_name}")
        at = found.message_type
    if at is not None and not at.full_name.startswith("google.protobuf."):
        raise TemplateError(f"{template!r} binds {'.'.join(path)!r}, which is a message")


def _binding(rule: HttpRule) -> tuple[str, str]:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        return "", ""
    if kind == "custom":
        return rule.custom.kind.upper(), rule.custom.path
    return kind.upper(), getattr(rule, kind)


def routes_of(method: MethodDescriptor) -> Iterator[Route]:
    """Yields the method's route and those of its additional bindings; none if it carries no rule.

    Raises:
        TemplateError: A rule does not fit the method's messages, or the grammar.
    """
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    rule = options.Extensions[annotations_pb2.http]
    for index, one in enumerate([rule, *rule.additional_bindings]):
        http_method, path = _binding(one)
        if not path:
            continue
        template = parse_template(path)
        for variable in template.variables:
            _check_field(method.input_type, variable.path, path)
        if one.body not in {"", "*"} and one.body not in method.input_type.fields_by_name:
            raise TemplateError(f"{method.full_name}: body {one.body!r} is not a field of {method.input_type.full_name}")
        if one.response_body and one.response_body not in method.output_type.fields_by_name:
            raise TemplateError(f"{method.full_name}: response_body {one.response_body!r} is not a field of {method.output_type.full_name}")
        assert method.containing_service is not None
        name = f"/{method.containing_service.full_name}/{method.name}"
        yield Route(name, method, http_method, template, one.body, one.response_body, index)


def _decode(raw: str) -> str:
    if "%" not in raw:
        return raw
    if _BAD_ESCAPE.search(raw):
        raise InvalidFieldError("path", "a '%' is not followed by two hexadecimal digits; write a literal '%' as '%25'")
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise InvalidFieldError("path", "percent-encoded bytes are not UTF-8; encode the text as UTF-8 first") from error


def _decode_keeping_slashes(raw: str) -> str:
    """Decodes all but `%2F`: in a variable of several segments a decoded slash would look like a separator."""
    if "%2" not in raw:
        return _decode(raw)
    return "".join(part if index % 2 else _decode(part) for index, part in enumerate(_SLASH.split(raw)))


class RouteTable:
    """All routes of a server. Immutable once built."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._root = _Node()
        self._verbs: set[str] = set()
        for route in self.routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        *fixed, last = route.template.segments
        for segment in fixed if last == "**" else route.template.segments:
            if segment == "*":
                node.star = node.star or _Node()
                node = node.star
            else:
                node = node.literals.setdefault(segment, _Node())
        leaf = (node.deep if last == "**" else node.leaves).setdefault(route.template.verb, {})
        if route.http_method in leaf:
            other = leaf[route.http_method].name
            raise TemplateError(f"{route.http_method} {route.template.text!r} leads to both {other} and {route.name}; change one rule")
        leaf[route.http_method] = route
        self._verbs.add(route.template.verb)

    def match(self, http_method: str, raw_path: str) -> Match | Miss:
        """Returns the route of a request.

        Args:
            http_method: Upper case. HEAD finds GET.
            raw_path: As it came, percent-encoded, without the query.

        Raises:
            InvalidFieldError: An escape of the path is malformed or not UTF-8.
        """
        allowed: set[str] = set()
        for parts, leaf in self._candidates(raw_path):
            route = leaf.get(http_method) or leaf.get("*") or (leaf.get("GET") if http_method == "HEAD" else None)
            if route is not None:
                return Match(route, _values(route.template, parts))
            allowed.update(leaf)
        return Miss(frozenset(allowed))

    def match_stream(self, raw_path: str) -> Match | None:
        """Returns the route of a streaming method at a path, whatever its HTTP method: a WebSocket has none. Raises as `match`."""
        for parts, leaf in self._candidates(raw_path):
            for route in leaf.values():
                if route.method.server_streaming or route.method.client_streaming:
                    return Match(route, _values(route.template, parts))
        return None

    def _candidates(self, raw_path: str) -> Iterator[tuple[list[str], Leaf]]:
        if not raw_path.startswith("/"):
            raise InvalidArgumentError(f"the path must start with '/', not {raw_path[:20]!r}")
        for parts, verb in self._split_verb(raw_path[1:].split("/")):
            for leaf in self._leaves(self._root, parts, 0, verb):
                yield parts, leaf

    def _split_verb(self, parts: list[str]) -> Iterator[tuple[list[str], str]]:
        """Yields the path with a known verb cut off, then whole: an id may hold a colon."""
        head, colon, verb = parts[-1].rpartition(":")
        if colon and (decoded := _decode(verb)) in self._verbs and decoded:
            yield [*parts[:-1], head], decoded
        yield parts, ""

    def _leaves(self, node: _Node, parts: list[str], at: int, verb: str) -> Iterator[Leaf]:
        """Yields what the path can mean, most specific first. Recursion is as deep as the trie, not as the path."""
        if at == len(parts):
            if verb in node.leaves:
                yield node.leaves[verb]
        elif parts[at]:
            literal = node.literals.get(_decode(parts[at]))
            if literal is not None:
                yield from self._leaves(literal, parts, at + 1, verb)
            if node.star is not None:
                yield from self._leaves(node.star, parts, at + 1, verb)
        if verb in node.deep:
            yield node.deep[verb]


def _values(template: Template, parts: list[str]) -> dict[tuple[str, ...], str]:
    values = {}
    for variable in template.variables:
        decode = _decode_keeping_slashes if variable.several else _decode
        end = len(parts) if variable.deep else variable.end
        values[variable.path] = decode("/".join(parts[variable.start : end]))
    return values


def build_table(methods: Mapping[str, MethodDescriptor]) -> RouteTable:
    """Returns the routes of all methods that carry an HTTP rule.

    Raises:
        TemplateError: A rule is malformed, or two rules claim the same path and method.
    """
    return RouteTable(route for name in sorted(methods) for route in routes_of(methods[name]))
