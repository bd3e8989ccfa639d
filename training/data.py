"""Interactions as integer arrays, from files in the import format or from rows of the store.

Shapes: E interactions, U users, N items. Ids are sorted, so row order is id order and ties broken by row are broken by id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import ItemId, UserId
from server.domain.items import Item
from server.domain.profiles import HISTORY_LIMIT
from server.errors import InvalidFieldError
from server.retrieval.vectors import action_weight
from training.rows import Row, read_rows

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, in [0, 1]."""

_EVENT_COLUMNS = ("user_id", "item_id", "occurred_at")
_TIME_FORMAT = "write RFC 3339 or seconds since 1970"
_MILLISECONDS = 1e11
"""Seconds past this are the year 5138: the writer meant milliseconds. `aisle import` refuses them too."""


@dataclass(frozen=True, slots=True)
class RawEvents:
    """Interactions before ids become numbers, in the order given."""

    users: tuple[UserId, ...]
    items: tuple[ItemId, ...]
    kinds: tuple[str, ...]
    times: NDArray[np.float64]
    """Seconds since 1970, (E,)."""

    def __add__(self, other: RawEvents) -> RawEvents:
        """Returns these events and then the other's."""
        times = np.concatenate([self.times, other.times])
        return RawEvents(self.users + other.users, self.items + other.items, self.kinds + other.kinds, times)

    def select(self, keep: NDArray[np.bool_]) -> RawEvents:
        """Returns the events marked True, (E,)."""
        places = np.flatnonzero(keep).tolist()
        users = tuple(self.users[place] for place in places)
        items = tuple(self.items[place] for place in places)
        return RawEvents(users, items, tuple(self.kinds[place] for place in places), self.times[keep])


class History(NamedTuple):
    """Interactions of one user, oldest first, (H,) each."""

    rows: IntArray
    """Rows of items."""
    weights: FloatArray
    """float32, what each action says about taste, in clicks."""
    kinds: IntArray
    """Rows of event types."""
    times: NDArray[np.float64]
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Interactions:
    """Interactions sorted by user, then time, then the order given."""

    users: IntArray
    """(E,), rows of users."""
    items: IntArray
    """(E,), rows of items."""
    weights: FloatArray
    """float32, (E,): what each action says about taste, in clicks."""
    times: NDArray[np.float64]
    """(E,), seconds since 1970."""
    kinds: IntArray
    """(E,), rows of event types."""
    starts: IntArray
    """(U + 1,): user u's interactions are places starts[u] to starts[u + 1]."""
    item_count: int

    @property
    def user_count(self) -> int:
        """U, with users that have no interaction."""
        return len(self.starts) - 1

    def history(self, user: int) -> History:
        """Returns a user's last `HISTORY_LIMIT` interactions."""
        end = int(self.starts[user + 1])
        start = max(int(self.starts[user]), end - HISTORY_LIMIT)
        return History(self.items[start:end], self.weights[start:end], self.kinds[start:end], self.times[start:end])

    def history_before(self, user: int, time_s: float) -> History:
        """Returns the same of the interactions before a moment, in seconds since 1970; of one at that moment nothing was known."""
        start, end = int(self.starts[user]), int(self.starts[user + 1])
        end = start + int(np.searchsorted(self.times[start:end], time_s))
        start = max(start, end - HISTORY_LIMIT)
        return History(self.items[start:end], self.weights[start:end], self.kinds[start:end], self.times[start:end])

    def pairs(self) -> IntArray:
        """Returns a number for each interaction's user and item, (E,), the same for the same two among interactions of the same items."""
        return self.users * self.item_count + self.items

    def has_real_times(self) -> bool:
        """Returns whether times can be compared across users: made-up ones start every user at the same second."""
        begins = self.times[self.starts[:-1][np.diff(self.starts) > 0]]
        if not len(begins):
            return False
        _, counts = np.unique(begins, return_counts=True)
        return int(counts.max()) * 2 <= len(begins)

    def select(self, keep: NDArray[np.bool_]) -> Interactions:
        """Returns the interactions marked True, (E,), for the same users and items."""
        columns = (self.users[keep], self.items[keep], self.weights[keep], self.times[keep], self.kinds[keep])
        return _arrange(*columns, user_count=self.user_count, item_count=self.item_count)

    def last_of_each(self, *, least: int) -> NDArray[np.bool_]:
        """Returns True for the last interaction of each user who has at least `least`, (E,)."""
        lengths = np.diff(self.starts)
        marked = np.zeros(len(self.users), np.bool_)
        marked[self.starts[1:][lengths >= least] - 1] = True
        return marked


def _arrange(
    users: IntArray,
    items: IntArray,
    weights: FloatArray,
    times: NDArray[np.float64],
    kinds: IntArray,
    *,
    user_count: int,
    item_count: int,
) -> Interactions:
    order = np.lexsort((np.arange(len(users)), times, users))
    users = users[order]
    starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=user_count))]).astype(np.int64)
    return Interactions(users, items[order], weights[order], times[order], kinds[order], starts, item_count)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ids behind the rows, sorted."""

    user_ids: tuple[UserId, ...]
    item_ids: tuple[ItemId, ...]
    event_types: tuple[str, ...]

    @classmethod
    def of(cls, events: Iterable[RawEvents], item_ids: Iterable[ItemId] = ()) -> Vocabulary:
        """Returns all ids of the events, and further items."""
        parts = tuple(events)
        users = {user for part in parts for user in part.users}
        items = {item for part in parts for item in part.items}.union(item_ids)
        kinds = {kind for part in parts for kind in part.kinds}
        return cls(tuple(sorted(users)), tuple(sorted(items)), tuple(sorted(kinds)))

    def encode(self, events: RawEvents, weigh: Callable[[str], float] = action_weight) -> Interactions:
        """Returns the events as arrays.

        Args:
            events: In any order.
            weigh: Gives an event type's weight.

        Raises:
            KeyError: An id is not in the vocabulary.
        """
        user_row = {user: row for row, user in enumerate(self.user_ids)}
        item_row = {item: row for row, item in enumerate(self.item_ids)}
        count = len(events.users)
        users = np.fromiter((user_row[user] for user in events.users), np.int64, count)
        items = np.fromiter((item_row[item] for item in events.items), np.int64, count)
        kind_row = {kind: row for row, kind in enumerate(self.event_types)}
        kinds = np.fromiter((kind_row[kind] for kind in events.kinds), np.int64, count)
        weights = np.array([weigh(kind) for kind in self.event_types], np.float32)[kinds]
        return _arrange(users, items, weights, events.times, kinds, user_count=len(self.user_ids), item_count=len(self.item_ids))


def raw_events(rows: Iterable[tuple[str, str, str, float]]) -> RawEvents:
    """Returns events given as user, item, type and seconds since 1970."""
    columns: tuple[Sequence[Any], ...] = tuple(zip(*rows, strict=True)) or ((), (), (), ())
    users, items, kinds, times = columns
    return RawEvents(tuple(users), tuple(items), tuple(kinds), np.array(times, np.float64))


def read_events(
    path: Path, progress: Progress = lambda _step, _share: None, *, min_value: float | None = None, below: str | None = None
) -> RawEvents:
    """Returns the events of a CSV, JSONL or Parquet file in the import format. Events that concern no item are left out.

    Args:
        path: The format is told by the suffix.
        progress: Told about each step.
        min_value: Leaves out events whose column `value` is less; None keeps all.
        below: Type given to those events instead; None leaves them out.

    Raises:
        InvalidFieldError: The file does not exist, or a row is wrong; the message names file, line and field.
    """

    def parsed() -> Iterator[tuple[str, str, str, float]]:
        for number, row in read_rows(path, _EVENT_COLUMNS):
            if number % 10_000 == 0:
                progress(f"reading {path.name}: {number} rows", 0.0)
            if not _given(row, "item_id"):
                continue
            place = f"in row {number} of {path}"
            kind = str(row["event_type"]) if _given(row, "event_type") else "interaction"
            if min_value is not None and _value(row, place) < min_value:
                kind = below or ""
            if kind:
                yield _id(row, "user_id", place), _id(row, "item_id", place), kind, _seconds(row.get("occurred_at"), place)

    return raw_events(parsed())


def read_items(path: Path) -> tuple[Item, ...]:
    """Returns the items of a CSV, JSONL or Parquet file in the import format.

    Raises:
        InvalidFieldError: The file does not exist, or a row is wrong.
    """
    return tuple(_item(row, f"in row {number} of {path}") for number, row in read_rows(path, ("item_id",)))


def _given(row: Row, name: str) -> bool:
    value = row.get(name)
    return value is not None and value != ""


def _id(row: Row, name: str, place: str) -> str:
    """Returns the id as text. A fraction is refused: 7.0 in one file and 7 in another would be two ids."""
    if not _given(row, name):
        raise InvalidFieldError(name, f"is missing {place}; every row names one")
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidFieldError(name, f"is {str(value)[:64]!r} {place}, of type {type(value).__name__}; write text or a whole number")
    return str(value)


def _seconds(value: Any, place: str) -> float:
    """Returns seconds since 1970 of an RFC 3339 time or a number of seconds."""
    if value is None or value == "":
        raise InvalidFieldError("occurred_at", f"is missing {place}; {_TIME_FORMAT}")
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        try:
            parsed = datetime.fromisoformat(str(value))
        except ValueError:
            raise InvalidFieldError("occurred_at", f"is {str(value)[:64]!r} {place}; {_TIME_FORMAT}") from None
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    if not np.isfinite(seconds):
        raise InvalidFieldError("occurred_at", f"is not finite {place}; {_TIME_FORMAT}")
    if abs(seconds) > _MILLISECONDS:
        raise InvalidFieldError("occurred_at", f"is {seconds:.0f} {place}, too large for seconds; divide milliseconds by 1000")
    return seconds


def _value(row: Row, place: str) -> float:
    try:
        return float(row["value"])
    except (KeyError, TypeError, ValueError):
        raise InvalidFieldError("value", f"is {row.get('value')!r} {place}; give every event a number in the column value") from None


def _item(row: Row, place: str) -> Item:
    item_id = ItemId(_id(row, "item_id", place))
    categories = row.get("categories") or ()
    attributes = row.get("attributes") or {}
    price = row.get("price")
    title, description = str(row.get("title") or item_id), str(row.get("description") or "")
    try:
        f"{title}{description}".encode()  # a lone surrogate, which JSON can hold, is no text
        return Item(
            item_id=item_id,
            title=title,
            description=description,
            categories=tuple(categories.split("|")) if isinstance(categories, str) else tuple(map(str, categories)),
            attributes=json.loads(attributes) if isinstance(attributes, str) else dict(attributes),
            price=None if price in {None, ""} else float(str(price)),
            language=str(row.get("language") or ""),
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidFieldError("item", f"is wrong {place}: {error}; see the columns of aisle import items") from error
