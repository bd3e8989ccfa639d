"""Expression text to tree, by recursive descent.

Grammar, keywords in any case:

    filter    = statement {"|" statement}
    statement = ("INCLUDE" | "EXCLUDE") "ItemID" "WHERE" test ["IF" test]
    test      = all {"OR" all}
    all       = one {"AND" one}
    one       = "(" test ")" | field operator value | field ["NOT"] "IN" "(" value {"," value} ")"
    value     = "text" | number | $PARAMETER | CurrentItem.FIELD | *

Source: Amazon Personalize Developer Guide, "Filter expression structure and elements". It does not say how AND and OR bind; here AND binds
first, as in SQL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from server.compat.aws.filters.syntax import (
    Condition,
    Every,
    FilterExpression,
    Literal,
    OfItem,
    Operand,
    Parameter,
    Some,
    Statement,
    Test,
    conditions,
)
from server.compat.names import snake
from server.errors import FilterSyntaxError

MAX_LENGTH = 2500
"""Characters, AWS's limit."""
MAX_DEPTH = 20

_TOKEN = re.compile(
    r"""
    \s*(?:
    (?P<STRING>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<NUMBER>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
    |(?P<PARAMETER>\$[A-Za-z0-9_]+)
    |(?P<FIELD>[A-Za-z]+\.[A-Za-z0-9_]+)
    |(?P<WORD>[A-Za-z]+)
    |(?P<OPERATOR><=|>=|!=|=|<|>)
    |(?P<MARK>[()|,*])
    )
    """,
    re.VERBOSE,
)
_DATASETS = {"items": "items", "item": "items", "interactions": "interactions", "currentuser": "user", "currentitem": "item"}
_INTERACTION_FIELDS = frozenset({"event_type"})


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int


@lru_cache(maxsize=1024)
def parse_filter(expression: str) -> FilterExpression:
    """Returns the tree of a filter expression. Parsed ones are remembered.

    Raises:
        FilterSyntaxError: It does not parse, or asks for something that cannot be expressed here; the message says what and where.
    """
    if len(expression) > MAX_LENGTH:
        message = f"the expression has {len(expression)} characters; at most {MAX_LENGTH}"
        raise FilterSyntaxError(message, position=MAX_LENGTH, expression=expression)
    return _Parser(expression).parse()


class _Parser:
    """One pass over one expression."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = self._read()
        self._next = 0
        self._depth = 0

    def _read(self) -> list[_Token]:
        found, position = [], 0
        text = self._expression.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                start = len(text[:position]) + len(text[position:]) - len(text[position:].lstrip())
                raise FilterSyntaxError(f"{text[start]!r} has no meaning here", position=start, expression=self._expression)
            kind = str(match.lastgroup)
            found.append(_Token(kind, match.group(kind), match.start(kind)))
            position = match.end()
        return [*found, _Token("END", "", len(text))]

    def parse(self) -> FilterExpression:
        """Returns the whole filter."""
        statements = [self._statement()]
        while self._takes("MARK", "|"):
            statements.append(self._statement())
        if self._peek().kind != "END":
            self._fail("expected AND, OR, IF, '|' or the end")
        return FilterExpression(tuple(statements))

    def _statement(self) -> Statement:
        include = self._takes("WORD", "include")
        if not include and not self._takes("WORD", "exclude"):
            self._fail("expected INCLUDE or EXCLUDE")
        what = self._peek()
        if what.kind == "WORD" and what.text.lower() in {"actionid", "userid"}:
            kind = "actions" if what.text.lower() == "actionid" else "user segments"
            self._fail(f"filters of {kind} cannot be expressed: Aisle has none; only ItemID")
        self._expect("itemid", "ItemID")
        self._expect("where", "WHERE")
        start = self._peek()
        test = self._any()
        datasets = {condition.dataset for condition in conditions(test)}
        if "user" in datasets:
            self._fail("CurrentUser may stand only behind IF", start)
        if len(datasets) > 1:
            self._fail("one statement asks about Items or about Interactions; join two statements with '|'", start)
        return Statement(include, datasets.pop(), test, self._condition() if self._takes("WORD", "if") else None)

    def _condition(self) -> Test:
        start = self._peek()
        test = self._any()
        if any(condition.dataset != "user" for condition in conditions(test)):
            self._fail("behind IF only CurrentUser's fields can be asked", start)
        return test

    def _any(self) -> Test:
        operands = [self._all()]
        while self._takes("WORD", "or"):
            operands.append(self._all())
        return operands[0] if len(operands) == 1 else Some(tuple(operands))

    def _all(self) -> Test:
        operands = [self._one()]
        while self._takes("WORD", "and"):
            operands.append(self._one())
        return operands[0] if len(operands) == 1 else Every(tuple(operands))

    def _one(self) -> Test:
        if self._takes("MARK", "("):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                self._fail(f"parentheses are nested deeper than {MAX_DEPTH}")
            test = self._any()
            self._close()
            self._depth -= 1
            return test
        return self._comparison()

    def _comparison(self) -> Condition:
        token = self._take()
        dataset, _, field = token.text.partition(".")
        known = _DATASETS.get(dataset.lower())
        if token.kind != "FIELD" or known in {None, "item"}:
            self._fail("expected Items.FIELD, Interactions.FIELD or, behind IF, CurrentUser.FIELD", token)
        name = snake(field)
        if known == "interactions" and name not in _INTERACTION_FIELDS:
            self._fail(f"Interactions.{field} cannot be expressed: of an interaction, filters see only EVENT_TYPE", token)
        negated = self._takes("WORD", "not")
        if self._takes("WORD", "in"):
            return Condition(str(known), name, "not in" if negated else "in", self._values(str(known)))
        if negated or self._peek().kind != "OPERATOR":
            self._fail("expected IN, NOT IN or one of = != < <= > >=")
        operator = self._take().text
        if known == "interactions":
            self._fail("EVENT_TYPE is a text; compare it with IN or NOT IN", token)
        return Condition(str(known), name, operator, (self._value(),))

    def _values(self, dataset: str) -> tuple[Operand, ...]:
        if not self._takes("MARK", "("):
            self._fail("expected '(' and the values")
        values = []
        while True:
            everything = self._peek().text in {"*", '"*"', "'*'"}
            if everything and dataset != "interactions":
                self._fail("'*' stands for all types of interaction only")
            values.append(self._value())
            if not self._takes("MARK", ","):
                break
        self._close()
        return tuple(values)

    def _value(self) -> Operand:
        token = self._take()
        match token.kind:
            case "STRING":
                return Literal(re.sub(r"\\(.)", r"\1", token.text[1:-1]))
            case "NUMBER":
                return Literal(float(token.text))
            case "PARAMETER":
                return Parameter(token.text[1:])
            case "FIELD" if token.text.lower().startswith("currentitem."):
                return OfItem(snake(token.text.partition(".")[2]))
            case "FIELD" if token.text.lower().startswith("currentuser."):
                self._fail(
                    "a field cannot be compared with CurrentUser's; ask of CurrentUser behind IF, or send the value as a $PARAMETER", token
                )
            case "MARK" if token.text == "*":
                return Literal("*")
        return self._fail('expected "text", a number, $PARAMETER or CurrentItem.FIELD', token)

    def _close(self) -> None:
        if not self._takes("MARK", ")"):
            self._fail("expected ')'")

    def _expect(self, word: str, spelled: str) -> None:
        if not self._takes("WORD", word):
            self._fail(f"expected {spelled}")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)  # END stays
        return token

    def _takes(self, kind: str, text: str) -> bool:
        token = self._peek()
        if token.kind != kind or token.text.lower() != text:
            return False
        self._take()
        return True

    def _fail(self, message: str, token: _Token | None = None) -> NoReturn:
        raise FilterSyntaxError(message, position=(token or self._peek()).start, expression=self._expression)
