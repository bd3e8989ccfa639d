"""A filter and one request's circumstances to what Aisle can ask: an AIP-160 expression over items, and sets of item ids."""

from __future__ import annotations

import math
import operator as operators
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.compat.aws.filters.syntax import Condition, Every, FilterExpression, Literal, OfItem, Operand, Parameter, Some, Statement, Test
from server.compat.aws.names import column
from server.compat.names import event_type_of
from server.domain import Interaction, Item, ItemId
from server.errors import InvalidFieldError
from server.retrieval.filters.fields import FIELDS, FieldKind
from server.retrieval.filters.fields import fault as field_fault
from server.retrieval.filters.syntax import And, Node, Not, Number, Or, Restriction, Text, Value

_QUOTED = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^",]+))\s*(,|$)')
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operators.eq,
    "!=": operators.ne,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}
_COLUMNS = frozenset({"item_id", "title", "categories", "price", "currency", "language"})
"""Columns of an items dataset that are fields here. All others are attributes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a filter may ask of one request."""

    values: Mapping[str, str] = field(default_factory=dict)
    """`filterValues`: several values in one text, quoted and separated by commas."""
    traits: Mapping[str, Any] = field(default_factory=dict)
    """The user's, by `names.snake`."""
    history: Sequence[Interaction] = ()
    item: Item | None = None
    """The one that a request for related items names."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What may be shown."""

    where: str = ""
    """AIP-160; empty lets everything pass."""
    only: frozenset[ItemId] | None = None
    """If not None, nothing else."""
    without: frozenset[ItemId] = frozenset()
    includes: bool = False
    """Whether something must hold of an item; then one of which nothing is known does not pass."""


class _Omitted(Exception):  # noqa: N818  # an event, not an error
    """A parameter has no value, and the statement excludes: that part of it does not count."""


def resolve(expression: FilterExpression, given: Circumstances) -> Selection:
    """Returns what the filter lets through.

    Raises:
        InvalidFieldError: A value is missing where one must be, or does not fit its field.
    """
    wheres: list[str] = []
    only: frozenset[ItemId] | None = None
    without: frozenset[ItemId] = frozenset()
    includes = False
    for statement in expression.statements:
        if statement.condition is not None and not _of_user(statement.condition, given):
            continue
        includes = includes or statement.include
        if statement.dataset == "interactions":
            touched = frozenset(one.item_id for one in given.history if _of_interaction(statement.test, one, given, statement))
            if statement.include:
                only = touched if only is None else only & touched
            else:
                without |= touched
            continue
        node = _of_items(statement.test, given, statement)
        if node is not None:
            wheres.append(str(node if statement.include else Not(node)))
    where = wheres[0] if len(wheres) == 1 else " AND ".join(f"({one})" for one in wheres)
    return Selection(where, only, without, includes)


def check_expressible(expression: FilterExpression) -> None:
    """Refuses a filter that no request could use.

    Raises:
        InvalidFieldError: A field is compared with what it never holds.
    """
    # A digit stands for a text as for a number; whatever else is wrong is wrong of the expression.
    given = Circumstances(values=dict.fromkeys(expression.parameters, "1"), item=Item(item_id=ItemId(""), title=""))
    for statement in expression.statements:
        if statement.dataset == "items":
            _of_items(statement.test, given, statement)
        if statement.condition is not None:
            _of_user(statement.condition, given)


def _of_items(test: Test, given: Circumstances, statement: Statement) -> Node | None:
    """Returns the test as an AIP-160 tree; None where every part of it was left out."""
    if isinstance(test, Condition):
        try:
            values = _values(test.operands, given, statement)
        except _Omitted:
            return None
        return _restriction(test, values)
    parts = [node for node in (_of_items(operand, given, statement) for operand in test.operands) if node is not None]
    if len(parts) < 2:
        return parts[0] if parts else None
    return And(tuple(parts)) if isinstance(test, Every) else Or(tuple(parts))


def _restriction(condition: Condition, values: Sequence[str | float]) -> Node:
    path = (condition.field,) if condition.field in _COLUMNS else ("attributes", condition.field)
    kind = FIELDS[path[0]]
    operator = {"in": "=", "not in": "="}.get(condition.operator, condition.operator)
    if kind is FieldKind.TEXTS:
        operator = ":" if operator == "=" else operator
    parts: list[Node] = []
    for given in values:
        value = _value(given, kind, condition)
        if wrong := field_fault(kind, operator, value):
            raise InvalidFieldError(f"Items.{condition.field.upper()}", wrong)
        parts.append(Restriction(path, operator, value))
    if not parts:  # the item that is asked about has no value there
        return Restriction(("item_id",), "=", Text(""))
    found: Node = parts[0] if len(parts) == 1 else Or(tuple(parts))
    return Not(found) if condition.operator == "not in" else found


def _value(given: str | float, kind: FieldKind, condition: Condition) -> Value:
    name = f"Items.{condition.field.upper()}"
    numeric = condition.operator not in {"in", "not in"}
    if numeric or kind is FieldKind.NUMBER:
        number = _number(given, name)
        return Number(number, repr(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number))
    return Text(given if isinstance(given, str) else f"{given:g}")


def _number(given: str | float, name: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidFieldError(name, f"is compared with {str(given)[:40]!r}; = != < <= > >= take numbers, texts are compared with IN")
    return number


def _values(operands: Sequence[Operand], given: Circumstances, statement: Statement) -> list[str | float]:
    found: list[str | float] = []
    for operand in operands:
        match operand:
            case Literal(value):
                found.append(value)
            case OfItem(name):
                if given.item is None:
                    raise InvalidFieldError("itemId", f"is required: the filter asks for CurrentItem.{name.upper()}")
                found += _listed(column(given.item, name))
            case Parameter(name):
                text = given.values.get(name)
                if text is None and not statement.include:
                    raise _Omitted
                if text is None:
                    raise InvalidFieldError(
                        f"filterValues.{name}", "is required: an INCLUDE filter needs a value for each of its parameters"
                    )
                found += parameter_values(text, name)
    return found


def parameter_values(text: str, name: str) -> list[str]:
    """Returns the values of a parameter: quoted and separated by commas, or one without quotes.

    Raises:
        InvalidFieldError: A quote is not closed, or a value is empty.
    """
    values, position = [], 0
    while True:
        match = _QUOTED.match(text, position)
        if match is None:
            raise InvalidFieldError(f"filterValues.{name}", 'must be values in double quotes, separated by commas, such as "porto","braga"')
        values.append(re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2].strip())
        position = match.end()
        if match[3] != ",":
            return values


def _of_interaction(test: Test, interaction: Interaction, given: Circumstances, statement: Statement) -> bool:
    match test:
        case Every(operands):
            return all(_of_interaction(operand, interaction, given, statement) for operand in operands)
        case Some(operands):
            return any(_of_interaction(operand, interaction, given, statement) for operand in operands)
        case Condition():
            try:
                wanted = {event_type_of(str(value)) if value != "*" else "*" for value in _values(test.operands, given, statement)}
            except _Omitted:
                return False
            return ("*" in wanted or interaction.event_type in wanted) == (test.operator == "in")


def _of_user(test: Test, given: Circumstances) -> bool:
    match test:
        case Every(operands):
            return all(_of_user(operand, given) for operand in operands)
        case Some(operands):
            return any(_of_user(operand, given) for operand in operands)
        case Condition():
            statement = Statement(include=True, dataset="user", test=test, condition=None)
            wanted = _values(test.operands, given, statement)
            return _holds(test.operator, _listed(given.traits.get(test.field)), wanted)


def _holds(operator: str, have: Sequence[str | float], wanted: Sequence[str | float]) -> bool:
    """Returns whether a user's values compare so; a user without the trait only passes NOT IN."""
    if operator in {"in", "not in"}:
        return bool({_text(value) for value in have} & {_text(value) for value in wanted}) == (operator == "in")
    try:
        return any(_COMPARE[operator](float(value), float(wanted[0])) for value in have)
    except (ValueError, IndexError):
        return False


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _listed(value: Any) -> list[str | float]:
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [one for element in value for one in _listed(element)]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, int | float):
        return [value]
    return [value] if isinstance(value, str) else []
