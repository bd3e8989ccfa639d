"""Expression text to tree, by recursive descent, with the position of whatever is wrong.

Grammar, AIP-160 without functions and without global restrictions:

    filter      = [expression]
    expression  = sequence {"AND" sequence}
    sequence    = factor {factor}
    factor      = term {"OR" term}
    term        = ["NOT" | "-"] simple
    simple      = restriction | "(" expression ")"
    restriction = path operator (value | "(" expression of values ")")
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from server.errors import FilterSyntaxError
from server.retrieval.filters.fields import FIELDS, FieldKind, fault, moment
from server.retrieval.filters.lexer import Token, TokenKind, tokens
from server.retrieval.filters.syntax import And, Anything, Boolean, Everything, Node, Not, Number, Or, Restriction, Text, Value

MAX_LENGTH = 4096
"""Characters of an expression."""
MAX_DEPTH = 50
"""Parentheses inside parentheses."""

_WORDS = frozenset({TokenKind.TEXT, TokenKind.NUMBER, TokenKind.STRING, TokenKind.TIME})


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter. Immutable; two that mean the same tree are equal."""

    root: Node

    def __str__(self) -> str:
        return str(self.root)


@lru_cache(maxsize=1024)
def compile_filter(expression: str) -> Filter:
    """Returns the filter that an AIP-160 expression describes; the empty one lets everything pass. Parsed filters are remembered.

    Raises:
        FilterSyntaxError: It does not parse, names an unknown field, compares a field with a value of the wrong type, is longer than
            `MAX_LENGTH` characters or nested deeper than `MAX_DEPTH`.
    """
    if len(expression) > MAX_LENGTH:
        message = f"the filter has {len(expression)} characters; at most {MAX_LENGTH}"
        raise FilterSyntaxError(message, position=MAX_LENGTH, expression=expression)
    return Filter(_Parser(expression).parse())


class _Parser:
    """One pass over one expression."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = list(tokens(expression))
        self._next = 0
        self._depth = 0

    def parse(self) -> Node:
        """Returns the tree of the whole expression."""
        if self._peek().kind is TokenKind.END:
            return Everything()
        node = self._all_of(self._restriction)
        if self._peek().kind is not TokenKind.END:
            self._fail("no '(' was opened before this ')'" if self._peek().kind is TokenKind.CLOSE else "expected AND, OR or the end")
        return node

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)  # END stays
        return token

    def _fail(self, message: str, token: Token | None = None) -> NoReturn:
        raise FilterSyntaxError(message, position=(token or self._peek()).start, expression=self._expression)

    def _is_word(self, word: str) -> bool:
        return self._peek().kind is TokenKind.TEXT and self._peek().text == word

    def _all_of(self, leaf: Callable[[], Node]) -> Node:
        """Parses `expression`: AND and sequences, which mean the same."""
        operands = [self._any_of(leaf)]
        while True:
            if self._is_word("AND"):
                self._take()
            elif self._peek().kind in {TokenKind.END, TokenKind.CLOSE, TokenKind.COMMA, TokenKind.DOT, TokenKind.OPERATOR}:
                break
            operands.append(self._any_of(leaf))
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _any_of(self, leaf: Callable[[], Node]) -> Node:
        """Parses `factor`."""
        operands = [self._term(leaf)]
        while self._is_word("OR"):
            self._take()
            operands.append(self._term(leaf))
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _term(self, leaf: Callable[[], Node]) -> Node:
        """Parses `term` and `simple`."""
        negated = self._is_word("NOT") or self._peek().kind is TokenKind.MINUS
        if negated:
            self._take()
        node = self._group_or(leaf)
        return Not(node) if negated else node

    def _group_or(self, leaf: Callable[[], Node]) -> Node:
        """Parses a parenthesized expression, or one leaf."""
        if self._peek().kind is not TokenKind.OPEN:
            return leaf()
        opening = self._take()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH}", opening)
        node = self._all_of(leaf)
        if self._peek().kind is not TokenKind.CLOSE:
            self._fail(f"expected AND, OR or the ')' for the '(' at position {opening.start}")
        self._take()
        self._depth -= 1
        return node

    def _restriction(self) -> Node:
        """Parses `restriction`."""
        first = self._peek()
        path = self._path()
        if self._peek().kind is not TokenKind.OPERATOR:
            self._fail_bare(first)
        kind = FIELDS.get(path[0])
        if kind is None:
            close = difflib.get_close_matches(path[0], FIELDS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"filters know {', '.join(FIELDS)}"
            self._fail(f"unknown field {path[0][:64]!r}; {hint}", first)
        if kind is not FieldKind.DYNAMIC and len(path) > 1:
            self._fail(f"{path[0]} has no parts; only attributes.NAME goes deeper", first)
        operator = self._take()

        def leaf() -> Node:
            token = self._peek()
            value = self._value(kind)
            problem = fault(kind, operator.text, value)
            if problem:
                self._fail(problem, token)
            if path == ("attributes",):
                return self._has_key(operator, value)
            return Restriction(path, operator.text, value)

        return self._group_or(leaf)

    def _has_key(self, operator: Token, value: Value) -> Node:
        """Returns the meaning of `attributes:name`: AIP-160's test for a key in a map."""
        if operator.text != ":" or isinstance(value, Boolean):
            self._fail('attributes as a whole compares with nothing; write attributes.NAME = "value", or attributes:NAME', operator)
        if isinstance(value, Anything):
            return Restriction(("attributes",), ":", value)
        assert isinstance(value, Text | Number)
        return Restriction(("attributes", value.text), ":", Anything())

    def _path(self) -> tuple[str, ...]:
        segments: list[str] = []
        while True:
            token = self._peek()
            if token.kind not in _WORDS or (token.kind is TokenKind.TEXT and token.text in {"AND", "OR", "NOT"}):
                self._fail("expected a comparison such as price <= 100" if not segments else "expected a name after '.'")
            self._take()
            if token.kind is TokenKind.STRING:
                segments.append(re.sub(r"\\(.)", r"\1", token.text, flags=re.DOTALL))
            else:
                segments.extend(token.text.split("."))
            if self._peek().kind is not TokenKind.DOT:
                return tuple(segments)
            self._take()

    def _fail_bare(self, first: Token) -> NoReturn:
        if first.text.upper() in {"AND", "OR", "NOT"}:
            self._fail(f"write {first.text.upper()} in upper case", first)
        if self._peek().kind is TokenKind.OPEN:
            self._fail("functions are not supported", first)
        self._fail('a bare value searches no field; write FIELD:value, such as title:"garden"', first)

    def _value(self, kind: FieldKind) -> Value:
        """Parses one value; text for text fields whatever it looks like, a time for time fields where it is one."""
        token = self._take()
        attached = self._peek().kind in {TokenKind.NUMBER, TokenKind.TEXT} and self._peek().start == token.stop
        negative = token.kind is TokenKind.MINUS and attached
        if negative:
            token = self._take()
        if token.kind not in _WORDS or (token.kind is TokenKind.TEXT and token.text in {"AND", "OR", "NOT"}):
            self._fail("expected a value", token)
        if token.kind is TokenKind.STRING:
            return _string(token.text, kind)
        if self._peek().kind is TokenKind.OPEN and self._peek().start == token.stop:
            self._fail("functions are not supported", token)
        text = "-" * negative + token.text
        if token.kind is TokenKind.NUMBER and kind in {FieldKind.NUMBER, FieldKind.DYNAMIC} and self._peek().kind is not TokenKind.DOT:
            return self._number(token, text)
        while self._peek().kind is TokenKind.DOT and self._tokens[self._next + 1].kind in {TokenKind.TEXT, TokenKind.NUMBER}:
            self._take()
            text += "." + self._take().text
        if text == "*":
            return Anything()
        if kind is FieldKind.DYNAMIC and text in {"true", "false"}:
            return Boolean(text == "true")
        if text == "null":
            self._fail('nothing equals null; write NOT field:* for "has no value"', token)
        return _string(text.replace("\\", "\\\\"), kind)

    def _number(self, token: Token, text: str) -> Number:
        value = float(text)
        if not math.isfinite(value):
            self._fail("this number is too large", token)
        return Number(value, text)


def _string(raw: str, kind: FieldKind) -> Value:
    """Returns the value of a string's inside: a time where the field holds times, else text with its wildcards."""
    if kind is FieldKind.TIME and (time := moment(raw)) is not None:
        return time
    open_start = raw.startswith("*")
    body = raw[open_start:]
    backslashes = len(body[:-1]) - len(body[:-1].rstrip("\\"))
    open_end = body.endswith("*") and backslashes % 2 == 0
    body = body[: len(body) - open_end]
    return Text(re.sub(r"\\(.)", r"\1", body, flags=re.DOTALL), open_start, open_end)
