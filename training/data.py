"""Interactions as integer arrays, from files in the import format or from rows of the store.

Shapes: E interactions, U users, N items. Ids are sorted, so row order is id order and ties broken by row are broken by id.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import ItemId, UserId
from server.domain.items import Item
from server.domain.profiles import HISTORY_LIMIT
from server.errors import InvalidFieldError
from server.retrieval.vectors import action_weight

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float32]
Row: TypeAlias = Mapping[str, Any]
Progress: TypeAlias = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, in [0, 1]."""


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
    starts: IntArray
    """(U + 1,): user u's interactions are places starts[u] to starts[u + 1]."""
    item_count: int

    @property
    def user_count(self) -> int:
        """U, with users that have no interaction."""
        return len(self.starts) - 1

    def history(self, user: int) -> tuple[IntArray, FloatArray]:
        """Returns the items and action weights of a user's last `HISTORY_LIMIT` interactions, oldest first."""
        end = int(self.starts[user + 1])
        start = max(int(self.starts[user]), end - HISTORY_LIMIT)
        return self.items[start:end], self.weights[start:end]

    def select(self, keep: NDArray[np.bool_]) -> Interactions:
        """Returns the interactions marked True, (E,), for the same users and items."""
        return _arrange(self.users[keep], self.items[keep], self.weights[keep], self.times[keep], self.user_count, self.item_count)

    def last_of_each(self, *, least: int) -> NDArray[np.bool_]:
        """Returns True for the last interaction of each user who has at least `least`, (E,)."""
        lengths = np.diff(self.starts)
        marked = np.zeros(len(self.users), np.bool_)
        marked[self.starts[1:][lengths >= least] - 1] = True
        return marked


def _arrange(
    users: IntArray, items: IntArray, weights: FloatArray, times: NDArray[np.float64], user_count: int, item_count: int
) -> Interactions:
    order = np.lexsort((np.arange(len(users)), times, users))
    users = users[order]
    starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=user_count))]).astype(np.int64)
    return Interactions(users, items[order], weights[order], times[order], starts, item_count)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ids behind the rows, sorted."""

    user_ids: tuple[UserId, ...]
    item_ids: tuple[ItemId, ...]

    @classmethod
    def of(cls, events: Iterable[RawEvents], item_ids: Iterable[ItemId] = ()) -> Vocabulary:
        """Returns all ids of the events, and further items."""
        parts = tuple(events)
        users = {user for part in parts for user in part.users}
        items = {item for part in parts for item in part.items}.union(item_ids)
        return cls(tuple(sorted(users)), tuple(sorted(items)))

    def encode(self, events: RawEvents) -> Interactions:
        """Returns the events as arrays.

        Raises:
            KeyError: An id is not in the vocabulary.
        """
        user_row = {user: row for row, user in enumerate(self.user_ids)}
        item_row = {item: row for row, item in enumerate(self.item_ids)}
        count = len(events.users)
        users = np.fromiter((user_row[user] for user in events.users), np.int64, count)
        items = np.fromiter((item_row[item] for item in events.items), np.int64, count)
        weights = np.fromiter((action_weight(kind) for kind in events.kinds), np.float32, count)
        return _arrange(users, items, weights, events.times, len(self.user_ids), len(self.item_ids))


def raw_events(rows: Iterable[tuple[str, str, str, float]]) -> RawEvents:
    """Returns events given as user, item, type and seconds since 1970."""
    columns: tuple[Sequence[Any], ...] = tuple(zip(*rows, strict=True)) or ((), (), (), ())
    users, items, kinds, times = columns
    return RawEvents(tuple(users), tuple(items), tuple(kinds), np.array(times, np.float64))


def read_events(path: Path, progress: Progress = lambda _step, _share: None) -> RawEvents:
    """Returns the events of a CSV, JSONL or Parquet file in the import format. Events that concern no item are left out.

    Args:
        path: The format is told by the suffix.
        progress: Told about each step.

    Raises:
        InvalidFieldError: The file does not exist, or a row is wrong; the message names file, line and field.
    """

    def parsed() -> Iterator[tuple[str, str, str, float]]:
        for number, row in enumerate(read_rows(path), start=1):
            if number % 10_000 == 0:
                progress(f"reading {path.name}: {number} rows", 0.0)
            item_id = row.get("item_id")
            if item_id in {None, ""}:
                continue
            user_id = row.get("user_id")
            if user_id in {None, ""}:
                raise InvalidFieldError("user_id", f"is missing in row {number} of {path}; every event names its user")
            yield str(user_id), str(item_id), str(row.get("event_type") or "interaction"), _seconds(row.get("occurred_at"), path, number)

    return raw_events(parsed())


def read_items(path: Path) -> tuple[Item, ...]:
    """Returns the items of a CSV, JSONL or Parquet file in the import format.

    Raises:
        InvalidFieldError: The file does not exist, or a row is wrong.
    """
    return tuple(_item(row, path, number) for number, row in enumerate(read_rows(path), start=1))


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a CSV, JSONL or Parquet file by column name.

    Raises:
        InvalidFieldError: The file does not exist, is not of its format, or has another suffix.
    """
    if not path.is_file():
        raise InvalidFieldError("file", f"{path} does not exist; give the path of a CSV, JSONL or Parquet file")
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as handle:
                yield from csv.DictReader(handle)
        elif suffix in {".jsonl", ".ndjson"}:
            with path.open(encoding="utf-8") as handle:
                yield from (json.loads(line) for line in handle if line.strip())
        elif suffix == ".parquet":
            import pyarrow.parquet as pq

            for batch in pq.ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
        else:
            raise InvalidFieldError("file", f"{path} is none of .csv, .jsonl, .parquet; rename or convert it")
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise InvalidFieldError("file", f"{path} cannot be read: {error}; check its format and encoding (UTF-8)") from error


def _seconds(value: Any, path: Path, number: int) -> float:
    """Returns seconds since 1970 of an RFC 3339 time or a number of seconds."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        try:
            parsed = datetime.fromisoformat(str(value))
        except ValueError:
            message = f"is {value!r} in row {number} of {path}; send RFC 3339 or seconds since 1970"
            raise InvalidFieldError("occurred_at", message) from None
        seconds = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    if not np.isfinite(seconds):
        raise InvalidFieldError("occurred_at", f"is not finite in row {number} of {path}; send RFC 3339 or seconds since 1970")
    return seconds


def _item(row: Row, path: Path, number: int) -> Item:
    if not row.get("item_id"):
        raise InvalidFieldError("item_id", f"is missing in row {number} of {path}")
    categories = row.get("categories") or ()
    attributes = row.get("attributes") or {}
    price = row.get("price")
    try:
        return Item(
            item_id=ItemId(str(row["item_id"])),
            title=str(row.get("title") or row["item_id"]),
            description=str(row.get("description") or ""),
            categories=tuple(categories.split("|")) if isinstance(categories, str) else tuple(map(str, categories)),
            attributes=json.loads(attributes) if isinstance(attributes, str) else dict(attributes),
            price=None if price in {None, ""} else float(str(price)),
            language=str(row.get("language") or ""),
        )
    except (ValueError, TypeError) as error:
        raise InvalidFieldError("item", f"is wrong in row {number} of {path}: {error}") from error
