"""The tree of a filter. `str` of a node prints an expression that parses to an equal tree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN_SEGMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS = frozenset({"AND", "OR", "NOT"})


@dataclass(frozen=True, slots=True)
class Text:
    """A text value; `=` treats the open ends as wildcards."""

    text: str
    open_start: bool = False
    open_end: bool = False

    def __str__(self) -> str:
        escaped = self.text.replace("\\", "\\\\").replace('"', '\\"').replace("*", "\\*")
        return f'"{"*" * self.open_start}{escaped}{"*" * self.open_end}"'


@dataclass(frozen=True, slots=True)
class Number:
    """An unquoted number. `text` is how it was written: a text attribute is compared with that."""

    value: float
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Boolean:
    """An unquoted `true` or `false`."""

    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


@dataclass(frozen=True, slots=True)
class Moment:
    """A time, in microseconds since 1970 UTC."""

    microseconds: int

    def __str__(self) -> str:
        return f'"{(EPOCH + timedelta(microseconds=self.microseconds)).isoformat()}"'


@dataclass(frozen=True, slots=True)
class Anything:
    """The `*` of `field:*`: any value that is present."""

    def __str__(self) -> str:
        return "*"


Value = Text | Number | Boolean | Moment | Anything


@dataclass(frozen=True, slots=True)
class Restriction:
    """One comparison of a field with a value."""

    path: tuple[str, ...]
    operator: str
    """One of = != < <= > >= and `:`."""
    value: Value

    def __str__(self) -> str:
        space = "" if self.operator == ":" else " "
        return f"{'.'.join(map(_segment, self.path))}{space}{self.operator}{space}{self.value}"


@dataclass(frozen=True, slots=True)
class Not:
    """True where `operand` is not."""

    operand: Node

    def __str__(self) -> str:
        return f"NOT {self.operand}" if isinstance(self.operand, Restriction) else f"NOT ({self.operand})"


@dataclass(frozen=True, slots=True)
class And:
    """True where all operands are. At least two."""

    operands: tuple[Node, ...]

    def __str__(self) -> str:
        return " AND ".join(f"({operand})" if isinstance(operand, And) else str(operand) for operand in self.operands)


@dataclass(frozen=True, slots=True)
class Or:
    """True where any operand is. At least two."""

    operands: tuple[Node, ...]

    def __str__(self) -> str:
        return " OR ".join(f"({operand})" if isinstance(operand, And | Or) else str(operand) for operand in self.operands)


@dataclass(frozen=True, slots=True)
class Everything:
    """The empty filter."""

    def __str__(self) -> str:
        return ""


Node = Restriction | Not | And | Or | Everything


def _segment(name: str) -> str:
    if _PLAIN_SEGMENT.fullmatch(name) and name not in _KEYWORDS:
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
