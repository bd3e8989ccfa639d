"""What a history says about a user's way of choosing. Pure rules over interactions and the categories of their items."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from server.domain.ids import ItemId
from server.domain.profiles import Interaction

SESSION_GAP = timedelta(minutes=30)
"""A pause longer than this ends a session: the convention of web analytics."""

DEFAULT_WEIGHT = 1.0
INTENT_WEIGHTS: Mapping[str, float] = {
    "impression": 0.2,
    "view": 1.0,
    "page_view": 1.0,
    "search": 1.0,
    "click": 1.5,
    "rating": 2.0,
    "like": 2.0,
    "save": 3.0,
    "favorite": 3.0,
    "share": 3.0,
    "compare": 3.0,
    "enquire": 5.0,
    "inquiry": 5.0,
    "message": 5.0,
    "quote": 5.0,
    "add_to_cart": 5.0,
    "booking": 8.0,
    "book": 8.0,
    "purchase": 8.0,
}
"""How much an event type says about wanting the item; types not listed weigh `DEFAULT_WEIGHT`."""

_COMPARING_WEIGHT = 3.0
_DECIDING_WEIGHT = 5.0
_HALF_LIFE_DAYS = 30.0


class IntentStage(enum.StrEnum):
    """How near the user is to a choice."""

    EXPLORE = "explore"
    COMPARE = "compare"
    DECIDE = "decide"


class Cluster(enum.StrEnum):
    """A way of using the catalogue. `assign_cluster` says how it is found."""

    NEWCOMER = "newcomer"
    DORMANT = "dormant"
    DECIDER = "decider"
    SPECIALIST = "specialist"
    RESEARCHER = "researcher"
    REGULAR = "regular"


@dataclass(frozen=True, slots=True)
class Session:
    """Interactions without a pause longer than `SESSION_GAP`."""

    start_time: datetime
    end_time: datetime
    interaction_count: int
    items: tuple[ItemId, ...]
    """Distinct, in the order first met."""


@dataclass(frozen=True, slots=True)
class CategoryShare:
    """A category's part of a user's interest."""

    category: str
    share: float
    """In (0, 1]; the shares of all categories add up to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BehaviorPatterns:
    """What `GetBehaviorPatterns` tells."""

    sessions: tuple[Session, ...]
    """Oldest first."""
    top_categories: tuple[CategoryShare, ...]
    """Largest share first, ties by name."""
    recency: timedelta | None
    """Time since the last interaction; None without one. Never negative."""
    cadence: timedelta | None
    """Median time between the starts of sessions that follow each other; None below two sessions."""
    concentration: float
    """Herfindahl index of all category shares, in [0, 1]: 1 when one category has everything, 0 without any."""
    intent: IntentStage
    cluster: Cluster


def find_sessions(history: Sequence[Interaction]) -> tuple[Session, ...]:
    """Returns the sessions of a history, oldest first. Every interaction is in exactly one.

    Args:
        history: In any order.
    """
    runs: list[list[Interaction]] = []
    for interaction in sorted(history, key=lambda one: one.occur_time):
        if not runs or interaction.occur_time - runs[-1][-1].occur_time > SESSION_GAP:
            runs.append([])
        runs[-1].append(interaction)
    return tuple(
        Session(run[0].occur_time, run[-1].occur_time, len(run), tuple(dict.fromkeys(interaction.item_id for interaction in run)))
        for run in runs
    )


def category_shares(
    history: Sequence[Interaction], categories: Mapping[ItemId, Sequence[str]], *, now: datetime
) -> tuple[CategoryShare, ...]:
    """Returns every category's share of the interest, largest first, ties by name.

    An interaction's weight is its type's `INTENT_WEIGHTS`, halved every 30 days of age, and split evenly over the item's categories. Items
    without categories count for nothing.

    Args:
        history: In any order.
        categories: Item -> its categories. Items that are gone may be missing.
        now: The moment to age from. Interactions in the future count as present.
    """
    weights: dict[str, float] = {}
    for interaction in history:
        names = categories.get(interaction.item_id, ())
        age_days = max(0.0, (now - interaction.occur_time) / timedelta(days=1))
        weight = INTENT_WEIGHTS.get(interaction.event_type, DEFAULT_WEIGHT) * 0.5 ** (age_days / _HALF_LIFE_DAYS)
        for name in names:
            weights[name] = weights.get(name, 0.0) + weight / len(names)
    total = math.fsum(weights.values())
    if total <= 0.0:
        return ()
    shares = [CategoryShare(name, weight / total) for name, weight in weights.items() if weight > 0.0]
    return tuple(sorted(shares, key=lambda one: (-one.share, one.category)))


def session_cadence(sessions: Sequence[Session]) -> timedelta | None:
    """Returns the median time between the starts of neighbouring sessions, or None below two."""
    gaps = [later.start_time - earlier.start_time for earlier, later in pairwise(sessions)]
    return timedelta(seconds=statistics.median(gap.total_seconds() for gap in gaps)) if gaps else None


def intent_stage(history: Sequence[Interaction], sessions: Sequence[Session]) -> IntentStage:
    """Returns how near to a choice the last three sessions are.

    `DECIDE`: an event that commits (inquiry, quote, cart, booking, purchase). `COMPARE`: an event that shortlists (save, share, compare),
    or fewer distinct items than half of the interactions, at least six of them: the user keeps returning to the same few. Else `EXPLORE`.
    """
    if not sessions:
        return IntentStage.EXPLORE
    start = sessions[-3:][0].start_time
    recent = [interaction for interaction in history if interaction.occur_time >= start]
    strongest = max(INTENT_WEIGHTS.get(interaction.event_type, DEFAULT_WEIGHT) for interaction in recent)
    if strongest >= _DECIDING_WEIGHT:
        return IntentStage.DECIDE
    returning = len(recent) >= 6 and 2 * len({interaction.item_id for interaction in recent}) < len(recent)
    return IntentStage.COMPARE if strongest >= _COMPARING_WEIGHT or returning else IntentStage.EXPLORE


def assign_cluster(
    history: Sequence[Interaction], *, recency: timedelta | None, cadence: timedelta | None, concentration: float, intent: IntentStage
) -> Cluster:
    """Returns the first cluster whose rule holds.

    A decision list, so that an assignment can be told to its user in one sentence and needs no training: `NEWCOMER` below five
    interactions; `DORMANT` when the last one is older than 30 days and than four cadences; `DECIDER` at the stage `DECIDE`; `SPECIALIST` at
    a concentration of 0.5 or more; `RESEARCHER` with 20 interactions or more on at least 15 distinct
    items; else `REGULAR`.
    """
    if len(history) < 5 or recency is None:
        return Cluster.NEWCOMER
    if recency > max(timedelta(days=30), 4 * (cadence or timedelta())):
        return Cluster.DORMANT
    if intent is IntentStage.DECIDE:
        return Cluster.DECIDER
    if concentration >= 0.5:
        return Cluster.SPECIALIST
    if len(history) >= 20 and len({interaction.item_id for interaction in history}) >= 15:
        return Cluster.RESEARCHER
    return Cluster.REGULAR


def behavior_patterns(
    history: Sequence[Interaction], categories: Mapping[ItemId, Sequence[str]], *, now: datetime, max_categories: int = 10
) -> BehaviorPatterns:
    """Returns all patterns of one history.

    Args:
        history: In any order, at most a few hundred.
        categories: Item -> its categories.
        now: The moment the patterns are told.
        max_categories: Longest `top_categories`.
    """
    sessions = find_sessions(history)
    shares = category_shares(history, categories, now=now)
    recency = max(timedelta(), now - sessions[-1].end_time) if sessions else None
    cadence = session_cadence(sessions)
    concentration = min(1.0, math.fsum(one.share * one.share for one in shares))
    intent = intent_stage(history, sessions)
    return BehaviorPatterns(
        sessions=sessions,
        top_categories=shares[:max_categories],
        recency=recency,
        cadence=cadence,
        concentration=concentration,
        intent=intent,
        cluster=assign_cluster(history, recency=recency, cadence=cadence, concentration=concentration, intent=intent),
    )
