"""Characters to tokens. Every token knows where it stands."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from server.errors import FilterSyntaxError


class TokenKind(enum.Enum):
    """What a token is, for the parser and for error messages."""

    TEXT = "word"
    NUMBER = "number"
    TIME = "time"
    STRING = "string"
    OPERATOR = "operator"
    OPEN = "'('"
    CLOSE = "')'"
    DOT = "'.'"
    COMMA = "','"
    MINUS = "'-'"
    END = "end of the filter"


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the expression."""

    kind: TokenKind
    text: str
    """As written; for a string, what stands between the quotes, escapes included."""
    start: int
    """Offset of the first character, 0-based."""
    stop: int
    """Offset behind the last character."""


_TOKEN = re.compile(
    r"""
    (?P<SPACE>\s+)
    |(?P<TIME>[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2}))?(?=[\s()]|$))
    |(?P<NUMBER>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?=[\s()<>=!:,"']|$|\.(?![0-9])))
    |(?P<STRING>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<OPERATOR><=|>=|!=|=|<|>|:)
    |(?P<OPEN>\()|(?P<CLOSE>\))|(?P<DOT>\.)|(?P<COMMA>,)|(?P<MINUS>-)
    |(?P<TEXT>[^\s()<>=!:,."'-][^\s()<>=!:,."']*)
    """,
    re.VERBOSE | re.DOTALL,
)


def tokens(expression: str) -> Iterator[Token]:
    """Yields the tokens of an expression, the last of kind END.

    Raises:
        FilterSyntaxError: A string without its closing quote, or a lone `!`.
    """
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            if expression[position] in "\"'":
                raise FilterSyntaxError("string without a closing quote", position=position, expression=expression)
            raise FilterSyntaxError("'!' is no operator; write != or NOT", position=position, expression=expression)
        kind, start, position = str(match.lastgroup), position, match.end()
        if kind != "SPACE":
            text = match.group()
            yield Token(TokenKind[kind], text[1:-1] if kind == "STRING" else text, start, position)
    yield Token(TokenKind.END, "", len(expression), len(expression))
