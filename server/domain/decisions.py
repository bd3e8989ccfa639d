"""What was decided, and why."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from server.domain.ids import BundleId, DecisionId, ItemId, UserId


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The record of one ranked list, enough to explain it and to evaluate another policy on it."""

    decision_id: DecisionId
    user_id: UserId
    method: str
    """The RPC, such as `RecommendItems`."""
    decide_time: datetime
    items: tuple[ItemId, ...]
    """Shown, in order."""
    scores: tuple[float, ...]
    propensities: tuple[float, ...]
    """Probability that this policy shows the item at its place, in (0, 1]. 1 where nothing was random."""
    candidates: tuple[ItemId, ...] = ()
    rung: Rung = Rung.FULL
    bundle_id: BundleId = BundleId("")
    runtime: str = ""
    arms: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)
