"""What was decided, and why."""

from __future__ import annotations

import enum
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, overload

import orjson

from server.domain.ids import BundleId, DecisionId, ItemId, UserId
from server.errors import CorruptDataError


class Rung(enum.IntEnum):
    """How much of the way a reply went. Higher is better; a failing step drops to the next lower rung."""

    STATIC = 1
    """The catalogue in a fixed order: nothing else was reachable."""
    SEGMENT_POPULAR = 2
    """What people like this user choose: no user vector could be had."""
    STALE_VECTOR = 3
    """An older user vector, or one without the latest events."""
    NO_RANKER = 4
    """Fresh vector and all sources, ordered by the retrieval score."""
    FULL = 5
    """Everything."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One source's share in an item's score."""

    source: str
    """`semantic`, `collaborative`, `sequential`, `contextual`, `item_to_item`, `trending`, `fresh`, `popular`."""
    contribution: float
    """Part of the score that came from this source; may be negative."""
    text: str
    """For people: why."""


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """An item in a ranked list."""

    item_id: ItemId
    score: float
    reasons: tuple[Reason, ...] = ()
    probability: float | None = None
    """That the user's next goal event is on the item, given that it is on a candidate; None where no calibrated ranker scored it."""


class PackedIds(Sequence[ItemId]):
    """Item ids as they travel and are stored: a compressed JSON list, unpacked when someone looks. Equal to a tuple of the same ids."""

    __slots__ = ("_ids", "packed")

    def __init__(self, packed: bytes) -> None:
        self.packed = packed
        """As `pack_ids` made it."""
        self._ids: tuple[ItemId, ...] | None = None

    def _unpacked(self) -> tuple[ItemId, ...]:
        if self._ids is None:
            try:
                self._ids = tuple(map(ItemId, json.loads(zlib.decompress(self.packed))))
            except (ValueError, zlib.error) as error:
                raise CorruptDataError("a decision's candidates cannot be read", part="candidates") from error
        return self._ids

    def __len__(self) -> int:
        return len(self._unpacked())

    @overload
    def __getitem__(self, place: int) -> ItemId: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[ItemId, ...]: ...
    def __getitem__(self, place: int | slice) -> ItemId | tuple[ItemId, ...]:
        return self._unpacked()[place]

    def __iter__(self) -> Iterator[ItemId]:
        return iter(self._unpacked())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedIds | tuple) and self._unpacked() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._unpacked())

    def __repr__(self) -> str:
        return repr(self._unpacked())


def pack_ids(ids: Sequence[ItemId]) -> bytes:
    """Returns the ids as `PackedIds` holds them. Some 60 us for 500; nothing for what is packed."""
    return ids.packed if isinstance(ids, PackedIds) else zlib.compress(json.dumps(tuple(ids), separators=(",", ":")).encode(), 1)


class Ranking:
    """Items of a list and what is recorded of each, as they travel and are stored: a JSON object, parsed when someone looks.

    Equal to another with the same items and figures.
    """

    __slots__ = ("_fields", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        """As `of` made it."""
        self._fields: Mapping[str, tuple[Any, ...]] | None = None

    @classmethod
    def of(
        cls, items: Sequence[ItemId], scores: Sequence[float], propensities: Sequence[float], probabilities: Sequence[float] = ()
    ) -> Ranking:
        """Returns it for lists of one entry an item, in order; `probabilities` may be shorter."""
        fields = {"items": items, "scores": scores, "propensities": propensities, "probabilities": probabilities}
        return cls(orjson.dumps(fields).decode())

    @property
    def items(self) -> tuple[ItemId, ...]:
        """Shown, in order."""
        return self._parsed()["items"]

    @property
    def scores(self) -> tuple[float, ...]:
        """Of the items, in order."""
        return self._parsed()["scores"]

    @property
    def propensities(self) -> tuple[float, ...]:
        """Probability that this policy shows the item at its place, in (0, 1]. 1 where nothing was random."""
        return self._parsed()["propensities"]

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Of the items, in order, as in `ScoredItem`. Empty where none has one; items that do not exist stand last and have none."""
        return self._parsed()["probabilities"]

    def _parsed(self) -> Mapping[str, tuple[Any, ...]]:
        if self._fields is None:
            try:
                self._fields = {name: tuple(values) for name, values in orjson.loads(self.text).items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise CorruptDataError("a decision's items cannot be read", part="ranking") from error
        return self._fields

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranking) and self._parsed() == other._parsed()

    def __hash__(self) -> int:
        return hash(self.items)

    def __repr__(self) -> str:
        return f"Ranking({self.text!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The record of one ranked list, enough to explain it and to evaluate another policy on it."""

    decision_id: DecisionId
    user_id: UserId
    method: str
    """The RPC, such as `RecommendItems`."""
    decide_time: datetime
    ranking: Ranking
    candidates: Sequence[ItemId] = ()
    """Ids that were ranked, the shown ones among them; a tuple or `PackedIds`."""
    rung: Rung = Rung.FULL
    bundle_id: BundleId = BundleId("")
    runtime: str = ""
    arms: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)
