"""The tree of a Personalize filter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Literal:
    """A quoted text or a number."""

    value: str | float


@dataclass(frozen=True, slots=True)
class Parameter:
    """A `$NAME` whose values come with the request."""

    name: str


@dataclass(frozen=True, slots=True)
class OfItem:
    """A `CurrentItem.FIELD`: the values of the item that a request for related items names."""

    field: str


Operand = Literal | Parameter | OfItem


@dataclass(frozen=True, slots=True)
class Condition:
    """`DATASET.FIELD OPERATOR OPERANDS`."""

    dataset: str
    """`items`, `interactions` or `user`."""
    field: str
    """As `names.snake` gives it."""
    operator: str
    """One of = != < <= > >= and `in`, `not in`."""
    operands: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Every:
    """True where all operands are."""

    operands: tuple[Condition | Every | Some, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """True where any operand is."""

    operands: tuple[Condition | Every | Some, ...]


Test = Condition | Every | Some


@dataclass(frozen=True, slots=True)
class Statement:
    """`INCLUDE|EXCLUDE ItemID WHERE TEST [IF USER TEST]`. All conditions of `test` are of one dataset."""

    include: bool
    dataset: str
    test: Test
    condition: Test | None
    """Of the user; where it does not hold, the statement has no effect."""


@dataclass(frozen=True, slots=True)
class FilterExpression:
    """Statements that all hold."""

    statements: tuple[Statement, ...]

    @property
    def needs_user(self) -> bool:
        """Whether it asks what the user did or is."""
        return any(one.dataset == "interactions" or one.condition is not None for one in self.statements)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, each once, in order."""
        found = [
            operand.name
            for statement in self.statements
            for test in (statement.test, statement.condition)
            if test is not None
            for condition in conditions(test)
            for operand in condition.operands
            if isinstance(operand, Parameter)
        ]
        return tuple(dict.fromkeys(found))


def conditions(test: Test) -> Iterator[Condition]:
    """Yields the conditions of a test."""
    if isinstance(test, Condition):
        yield test
    else:
        for operand in test.operands:
            yield from conditions(operand)
