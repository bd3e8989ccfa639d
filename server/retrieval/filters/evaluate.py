"""A filter's tree against item columns: one boolean a slot.

Shapes: S slots in [start, stop), V values of a list column.
"""

from __future__ import annotations

import operator as operators
import re
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from server.retrieval.filters.fields import FIELDS, FieldKind
from server.retrieval.filters.syntax import And, Anything, Boolean, Everything, Moment, Node, Not, Number, Or, Restriction, Text, Value

if TYPE_CHECKING:
    from server.retrieval.columns import ItemColumns, ListColumn, TextColumn

BoolArray = NDArray[np.bool_]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operators.eq,
    ":": operators.eq,
    "!=": operators.ne,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}


def evaluate(node: Node, columns: ItemColumns, start: int, stop: int) -> BoolArray:
    """Returns which slots in [start, stop) pass, (S,)."""
    match node:
        case Everything():
            return np.ones(stop - start, np.bool_)
        case Not(operand):
            return ~evaluate(operand, columns, start, stop)
        case And(operands):
            return reduce(np.logical_and, [evaluate(operand, columns, start, stop) for operand in operands])
        case Or(operands):
            return reduce(np.logical_or, [evaluate(operand, columns, start, stop) for operand in operands])
        case Restriction():
            return _restriction(node, columns, start, stop)


def _restriction(node: Restriction, columns: ItemColumns, start: int, stop: int) -> BoolArray:
    name, operator, value = node.path[0], node.operator, node.value
    match FIELDS[name]:
        case FieldKind.NUMBER:
            return _numbers(columns.prices(start, stop), operator, value)
        case FieldKind.TIME:
            return _times(columns.times(name, start, stop), operator, value)
        case FieldKind.TEXT:
            return _texts(columns.texts(name), operator, value, start, stop)
        case FieldKind.TEXTS:
            return _elements(columns.categories, operator, value, start, stop)
        case FieldKind.DYNAMIC:
            path = node.path[1:]
            passing = _elements(columns.attribute(path, stop), operator, value, start, stop)
            if operator == ":" and isinstance(value, Text | Number):  # an object has its keys
                passing = passing | columns.attribute((*path, value.text), stop).present(start, stop)
            return passing


def _numbers(numbers: NDArray[np.float64], operator: str, value: Value) -> BoolArray:
    known = ~np.isnan(numbers)
    if isinstance(value, Anything):
        return known
    assert isinstance(value, Number)
    passing: BoolArray = _COMPARE[operator](numbers, value.value)
    return passing & known  # NaN != x is true in IEEE 754


def _times(times: NDArray[np.int64], operator: str, value: Value) -> BoolArray:
    known: BoolArray = times != np.iinfo(np.int64).min
    if isinstance(value, Anything):
        return known
    assert isinstance(value, Moment)
    passing: BoolArray = _COMPARE[operator](times, value.microseconds)
    return passing & known


def _texts(column: TextColumn, operator: str, value: Value, start: int, stop: int) -> BoolArray:
    codes = column.codes(start, stop)
    known: BoolArray = codes != 0
    if isinstance(value, Anything):
        return known
    assert isinstance(value, Text)
    if operator in {"=", "!="} and not (value.open_start or value.open_end):
        equal: BoolArray = codes == column.texts.find(value.text)
        return np.logical_and(known, equal if operator == "=" else ~equal)
    return np.logical_and(known, column.texts.passing(codes, text_test(operator, value, words=True)))


def _elements(column: ListColumn, operator: str, value: Value, start: int, stop: int) -> BoolArray:
    """Evaluates a list: true where any element passes; for `!=`, where there are elements and none equals."""
    if isinstance(value, Anything):
        return column.present(start, stop)
    owners, codes, numbers, booleans = column.flat(start, stop)
    hits = np.zeros(len(owners), np.bool_)
    compare = _COMPARE["=" if operator == "!=" else operator]
    if isinstance(value, Boolean):
        hits = booleans & (numbers == value.value)
    elif isinstance(value, Number):
        hits = ~booleans & (codes < 0) & compare(numbers, value.value)
    text = Text(str(value)) if isinstance(value, Number | Boolean) and operator in {"=", ":", "!="} else value
    if isinstance(text, Text) and len(column.texts.all):
        passing = column.texts.passing(codes, text_test("=" if operator == "!=" else operator, text, words=False))
        hits = hits | ((codes >= 0) & passing)
    result = np.zeros(stop - start, np.bool_)
    result[owners[hits]] = True
    if operator == "!=":
        filled = np.zeros(stop - start, np.bool_)
        filled[owners] = True
        return filled & ~result
    return result


def text_test(operator: str, value: Text, *, words: bool) -> Callable[[str], bool]:
    """Returns the test of one text. `words`: `:` looks for whole words inside; else it compares the whole text. Both ignore case."""
    if operator in {"<", "<=", ">", ">="}:
        compare = _COMPARE[operator]
        return lambda text: bool(compare(text, value.text))
    if operator == ":":
        folded = value.text.casefold()
        if words:
            inside = r"\s+".join(map(re.escape, folded.split()))
            left = "" if value.open_start or not re.match(r"\w", folded.lstrip()) else r"(?<!\w)"
            right = "" if value.open_end or not re.search(r"\w$", folded.rstrip()) else r"(?!\w)"
            search = re.compile(left + inside + right).search
            return lambda text: search(text.casefold()) is not None
        matches = _wildcard(Text(folded, value.open_start, value.open_end))
        return lambda text: matches(text.casefold())
    matches = _wildcard(value)
    return matches if operator == "=" else lambda text: not matches(text)


def _wildcard(value: Text) -> Callable[[str], bool]:
    wanted = value.text
    if value.open_start and value.open_end:
        return lambda text: wanted in text
    if value.open_start:
        return lambda text: text.endswith(wanted)
    if value.open_end:
        return lambda text: text.startswith(wanted)
    return lambda text: text == wanted
