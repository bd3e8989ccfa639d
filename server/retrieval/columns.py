"""Items as columns, for filters that look at all of them at once.

Everything only grows: slot s, once written, never changes, so a reader of the first S slots needs no lock while a writer appends.

Shapes: S slots, V values (a slot has any number of values in a list column).
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from server.domain import Item
from server.retrieval.filters.fields import FIELDS, FieldKind, microseconds

BoolArray = NDArray[np.bool_]

MISSING_TIME = np.iinfo(np.int64).min
"""Stands for no time in a time column."""

MAX_ATTRIBUTE_COLUMNS = 128
"""Attribute paths kept as columns; the one used longest ago goes first."""

MAX_LIST_DEPTH = 16
"""Lists inside lists that a path goes through; what lies deeper is not seen."""


class Growing:
    """An array that doubles its room. `data[:size]` may be read while another thread appends."""

    def __init__(self, dtype: DTypeLike) -> None:
        self.data: NDArray[Any] = np.empty(64, dtype)
        self.size = 0

    def extend(self, values: Sequence[Any] | NDArray[Any]) -> None:
        """Appends values. One writer at a time."""
        end = self.size + len(values)
        if end > len(self.data):
            grown = np.empty(max(end, 2 * len(self.data)), self.data.dtype)
            grown[: self.size] = self.data[: self.size]
            self.data = grown
        self.data[self.size : end] = values
        self.size = end


class Texts:
    """Distinct texts and their codes, in order of first sight."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, text: str) -> int:
        """Returns the code of a text, a new one on first sight."""
        code = self._codes.setdefault(text, len(self.all))
        if code == len(self.all):
            self.all.append(text)
        return code

    def find(self, text: str) -> int:
        """Returns the code of a text, or -1."""
        return self._codes.get(text, -1)

    def passing(self, codes: NDArray[np.int32], test: Callable[[str], bool]) -> BoolArray:
        """Returns which codes' texts pass a test, (n,); arbitrary for code -1. Each distinct text is tested once."""
        if len(codes) * 8 < len(self.all):
            distinct, places = np.unique(codes, return_inverse=True)
            tested = np.fromiter((test(self.all[code]) for code in distinct.tolist()), np.bool_, len(distinct))
            return tested[places]
        return np.fromiter(map(test, tuple(self.all)), np.bool_)[codes]


class TextColumn:
    """One text a slot; "" is missing."""

    def __init__(self) -> None:
        self.texts = Texts()
        self.texts.code("")
        self._codes = Growing(np.int32)

    def extend(self, values: Sequence[str]) -> None:
        """Appends one value a slot."""
        self._codes.extend([self.texts.code(value) for value in values])

    def codes(self, start: int, stop: int) -> NDArray[np.int32]:
        """Returns the codes of slots [start, stop); 0 is missing."""
        return self._codes.data[start:stop]


class ListColumn:
    """Any number of values a slot, flat: `ends[s]` is where slot s's values stop.

    A value is a text, a number or a boolean; `numbers` is NaN for texts, `codes` is -1 for the others.
    """

    def __init__(self) -> None:
        self.texts = Texts()
        self._owners = Growing(np.int32)
        self._codes = Growing(np.int32)
        self._numbers = Growing(np.float64)
        self._booleans = Growing(np.bool_)
        self._ends = Growing(np.int64)
        self._present = Growing(np.bool_)

    @property
    def size(self) -> int:
        """Slots written."""
        return self._ends.size

    def extend(self, rows: Sequence[tuple[Sequence[str | float | bool], bool]]) -> None:
        """Appends, a slot each: its values, and whether anything is present (an object is, and has no values)."""
        first = self._ends.size
        values = [value for row, _ in rows for value in row]
        self._owners.extend(np.repeat(np.arange(first, first + len(rows), dtype=np.int32), [len(row) for row, _ in rows]))
        self._codes.extend([self.texts.code(value) if isinstance(value, str) else -1 for value in values])
        self._numbers.extend([math.nan if isinstance(value, str) else value for value in values])
        self._booleans.extend([isinstance(value, bool) for value in values])
        self._present.extend([present for _, present in rows])
        self._ends.extend(np.cumsum([len(row) for row, _ in rows], dtype=np.int64) + (self._ends.data[first - 1] if first else 0))

    def present(self, start: int, stop: int) -> BoolArray:
        """Returns which of slots [start, stop) hold something."""
        return self._present.data[start:stop]

    def flat(self, start: int, stop: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64], BoolArray]:
        """Returns owner (relative to start), text code, number and whether boolean, (V,) each, of slots [start, stop)."""
        low = int(self._ends.data[start - 1]) if start else 0
        high = int(self._ends.data[stop - 1]) if stop else 0
        part = slice(low, high)
        return self._owners.data[part] - start, self._codes.data[part], self._numbers.data[part], self._booleans.data[part]

    def gather(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        """Returns the values of some slots: place in `slots`, text code, number, (V,) each."""
        ends = self._ends.data[slots]
        starts = np.where(slots > 0, self._ends.data[slots - 1], 0)
        lengths = ends - starts
        owners = np.repeat(np.arange(len(slots)), lengths)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(starts, lengths)
        return owners, self._codes.data[places], self._numbers.data[places]


class ItemColumns:
    """The filterable fields of items, by slot. One writer at a time; readers need no lock."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._texts = {name: TextColumn() for name, kind in FIELDS.items() if kind is FieldKind.TEXT}
        self._times = {name: Growing(np.int64) for name, kind in FIELDS.items() if kind is FieldKind.TIME}
        self._prices = Growing(np.float64)
        self._categories = ListColumn()
        self._attributes: OrderedDict[tuple[str, ...], ListColumn] = OrderedDict()
        self._attributes_lock = threading.Lock()

    def extend(self, items: Sequence[Item]) -> None:
        """Appends items, one a slot."""
        for name, texts in self._texts.items():
            texts.extend([getattr(item, name) for item in items])
        for name, times in self._times.items():
            times.extend([_time(getattr(item, name)) for item in items])
        self._prices.extend([math.nan if item.price is None else item.price for item in items])
        self._categories.extend([(item.categories, bool(item.categories)) for item in items])
        self.items.extend(items)

    def texts(self, name: str) -> TextColumn:
        """Returns a text field."""
        return self._texts[name]

    def times(self, name: str, start: int, stop: int) -> NDArray[np.int64]:
        """Returns a time field of slots [start, stop) in microseconds since 1970; `MISSING_TIME` for none."""
        return self._times[name].data[start:stop]

    def prices(self, start: int, stop: int) -> NDArray[np.float64]:
        """Returns prices of slots [start, stop); NaN for none."""
        return self._prices.data[start:stop]

    @property
    def categories(self) -> ListColumn:
        """The categories."""
        return self._categories

    def attribute(self, path: tuple[str, ...], stop: int) -> ListColumn:
        """Returns an attribute's column, made on first use and written up to slot `stop` at least."""
        with self._attributes_lock:
            column = self._attributes.setdefault(path, ListColumn())
            self._attributes.move_to_end(path)
            if len(self._attributes) > MAX_ATTRIBUTE_COLUMNS:
                self._attributes.popitem(last=False)
            if column.size < stop:
                column.extend([attribute_values(item.attributes, path) for item in self.items[column.size : stop]])
        return column


def attribute_values(attributes: Mapping[str, Any], path: Sequence[str]) -> tuple[list[str | float | bool], bool]:
    """Returns the scalars that a path reaches in a JSON object, through lists, and whether it reaches anything not empty."""
    if len(path) == 1:  # most attributes are one text or number
        value = attributes.get(path[0])
        if isinstance(value, str):
            return [value], bool(value)
        if value is None:
            return [], False
    found = list(_reach(attributes, path))
    values: list[str | float | bool] = [_scalar(value) for value in found if isinstance(value, str | int | float)]
    return values, any(value not in ("", None) and (not isinstance(value, Mapping) or len(value) > 0) for value in found)


def _reach(value: Any, path: Sequence[str], depth: int = 0) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for element in value if depth < MAX_LIST_DEPTH else ():
            yield from _reach(element, path, depth + 1)
    elif not path:
        yield value
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _reach(value[path[0]], path[1:], depth)


def _scalar(value: str | float) -> str | float | bool:
    if isinstance(value, str | bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _time(value: datetime | None) -> int:
    return MISSING_TIME if value is None else microseconds(value)
