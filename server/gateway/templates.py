"""Path templates of `google.api.http`, parsed.

    Template  = "/" Segments [ ":" LITERAL ]
    Segments  = Segment { "/" Segment }
    Segment   = "*" | "**" | LITERAL | "{" FieldPath [ "=" Segments ] "}"
    FieldPath = IDENT { "." IDENT }

`**` matches zero or more segments and must come last. A variable may not hold a variable.

Source: the grammar in the comment of `google/api/http.proto`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from server.errors import InvalidArgumentError

_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LITERAL = re.compile(r"[^/{}*:=?#\s]+")


class TemplateError(InvalidArgumentError):
    """A path template that the grammar does not allow. The message shows the template and the position."""


@dataclass(frozen=True, slots=True)
class Variable:
    """The part of a path that becomes a field."""

    path: tuple[str, ...]
    """Field names, outermost first."""
    start: int
    """Index of its first segment."""
    end: int
    """Index after its last segment; for a variable that ends in `**`, of the segment `**` itself."""
    deep: bool
    """Whether it ends in `**`, and so takes the rest of the path."""
    several: bool
    """Whether it can hold more than one segment. Decides how `%2F` is decoded."""


@dataclass(frozen=True, slots=True)
class Template:
    """A path template: its fixed segments, wildcards, verb and variables."""

    text: str
    segments: tuple[str, ...]
    """Literals, `*` and `**`."""
    verb: str
    """The part after the last colon, or empty."""
    variables: tuple[Variable, ...]


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.segments: list[str] = []
        self.variables: list[Variable] = []

    def fail(self, message: str) -> TemplateError:
        return TemplateError(f"{message} at position {self.at} of path template {self.text!r}")

    def take(self, token: str) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self.fail(f"expected {what}")
        self.at = found.end()
        return found[0]

    def parse(self) -> Template:
        if not self.take("/"):
            raise self.fail("expected '/'")
        self.parse_segments(inside=False)
        verb = self.match(_LITERAL, "a verb") if self.take(":") else ""
        if self.at != len(self.text):
            raise self.fail("unexpected character")
        if "**" in self.segments[:-1]:
            raise self.fail("'**' must be the last segment")
        paths = [variable.path for variable in self.variables]
        if len(set(paths)) != len(paths):
            raise self.fail("a field is bound twice")
        return Template(self.text, tuple(self.segments), verb, tuple(self.variables))

    def parse_segments(self, *, inside: bool) -> None:
        self.parse_segment(inside=inside)
        while self.take("/"):
            self.parse_segment(inside=inside)

    def parse_segment(self, *, inside: bool) -> None:
        if self.take("**"):
            self.segments.append("**")
        elif self.take("*"):
            self.segments.append("*")
        elif self.text.startswith("{", self.at):
            if inside:
                raise self.fail("a variable inside a variable")
            self.parse_variable()
        else:
            self.segments.append(self.match(_LITERAL, "'*', '**', '{' or a literal"))

    def parse_variable(self) -> None:
        self.take("{")
        path = [self.match(_IDENT, "a field name")]
        while self.take("."):
            path.append(self.match(_IDENT, "a field name"))
        start = len(self.segments)
        if self.take("="):
            self.parse_segments(inside=True)
        else:
            self.segments.append("*")
        if not self.take("}"):
            raise self.fail("expected '}'")
        deep = self.segments[-1] == "**"
        end = len(self.segments) - deep
        self.variables.append(Variable(tuple(path), start, end, deep, deep or end - start > 1))


def parse_template(text: str) -> Template:
    """Returns the parsed template.

    Raises:
        TemplateError: The grammar does not allow `text`.
    """
    return _Parser(text).parse()
