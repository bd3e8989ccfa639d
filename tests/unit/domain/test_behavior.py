from __future__ import annotations

import itertools
import math
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from server.domain import Event, Interaction, ItemId
from server.domain.behavior import SESSION_GAP, Cluster, IntentStage, behavior_patterns, category_shares, find_sessions
from server.domain.history import interaction_of
from tests.event_factories import NOON, event, events

CATEGORIES = {ItemId("a"): ("venues",), ItemId("b"): ("venues", "gardens"), ItemId("c"): ()}


def _history(made: list[Event]) -> list[Interaction]:
    return [seen for one in made if (seen := interaction_of(one)) is not None]


def _views(*minutes: float, event_type: str = "view", item: str = "a") -> list[Interaction]:
    times = [NOON + timedelta(minutes=minute) for minute in minutes]
    return [Interaction(ItemId(item), event_type, time) for time in times]


@given(events(max_size=20), st.integers(1, 200))
def test_sessions_partition_the_history(made: list[Event], spread: int) -> None:
    """Every interaction is in exactly one session; sessions are apart by more than the gap and have none inside."""
    history = [Interaction(one.item_id, one.event_type, NOON + (one.occur_time - NOON) * spread) for one in _history(made)]
    sessions = find_sessions(history)
    assert len(history) == sum(one.interaction_count for one in sessions)
    for earlier, later in itertools.pairwise(sessions):
        assert later.start_time - earlier.end_time > SESSION_GAP
    for session in sessions:
        inside = sorted(one.occur_time for one in history if session.start_time <= one.occur_time <= session.end_time)
        assert session.interaction_count == len(inside)
        assert all(later - earlier <= SESSION_GAP for earlier, later in itertools.pairwise(inside))
        assert len(set(session.items)) == len(session.items)


@given(events(max_size=20))
def test_patterns_do_not_depend_on_the_order_given(made: list[Event]) -> None:
    """A history in another order has the same categories, stage and times."""
    history = _history(made)
    patterns = behavior_patterns(history, CATEGORIES, now=NOON + timedelta(days=1))
    turned = behavior_patterns(history[::-1], CATEGORIES, now=NOON + timedelta(days=1))
    assert (patterns.recency, patterns.cadence, patterns.intent) == (turned.recency, turned.cadence, turned.intent)
    assert {one.category for one in patterns.top_categories} == {one.category for one in turned.top_categories}


@given(events(max_size=20), st.integers(-1, 4000))
def test_shares_add_up_and_are_ordered(made: list[Event], days: int) -> None:
    """Category shares lie in (0, 1], add up to one and come largest first, however old the history."""
    shares = category_shares(_history(made), CATEGORIES, now=NOON + timedelta(days=days))
    assert all(0.0 < one.share <= 1.0 for one in shares)
    assert sorted(shares, key=lambda one: (-one.share, one.category)) == list(shares)
    assert not shares or math.isclose(1.0, sum(one.share for one in shares))


@given(events(max_size=20))
def test_concentration_and_recency_stay_in_range(made: list[Event]) -> None:
    """Concentration lies in [0, 1] and recency is not negative, also for events in the future."""
    patterns = behavior_patterns(_history(made), CATEGORIES, now=NOON)
    assert 0.0 <= patterns.concentration <= 1.0
    assert patterns.recency is None or patterns.recency >= timedelta()


def test_a_pause_of_exactly_the_gap_does_not_end_a_session() -> None:
    """Thirty minutes continue a session, a second more starts the next."""
    assert len(find_sessions(_views(0, 30))) == 1
    assert len(find_sessions(_views(0, 30.1))) == 2


def test_no_history_has_patterns_too() -> None:
    """A user without events is a newcomer who explores."""
    patterns = behavior_patterns([], {}, now=NOON)
    assert (patterns.sessions, patterns.top_categories, patterns.recency, patterns.cadence) == ((), (), None, None)
    assert (patterns.intent, patterns.cluster) == (IntentStage.EXPLORE, Cluster.NEWCOMER)


def test_stage_follows_the_strongest_recent_event() -> None:
    """Viewing explores, saving compares, a booking decides, and one three sessions ago no longer counts."""
    now = NOON + timedelta(days=1)

    def stage(history: list[Interaction]) -> IntentStage:
        return behavior_patterns(history, CATEGORIES, now=now).intent

    assert stage(_views(0, 1)) is IntentStage.EXPLORE
    assert stage(_views(0, event_type="save")) is IntentStage.COMPARE
    assert stage(_views(0, event_type="booking")) is IntentStage.DECIDE
    assert stage(_views(0, event_type="booking") + _views(100, 200, 300)) is IntentStage.EXPLORE
    assert stage(_views(0, 1, 2, item="a") + _views(3, 4, 5, item="b")) is IntentStage.COMPARE


def test_cadence_is_the_median_between_session_starts() -> None:
    """Sessions a day, a day and a week apart have a cadence of a day."""
    day = 24 * 60
    assert behavior_patterns(_views(0, day, 2 * day, 9 * day), {}, now=NOON).cadence == timedelta(days=1)


def test_clusters_by_their_rules() -> None:
    """Each cluster is reached by a history that fits its sentence."""

    def cluster(history: list[Interaction], days: float = 1.0) -> Cluster:
        categories = {ItemId(f"n{number}"): (f"c{number % 7}",) for number in range(40)} | CATEGORIES
        return behavior_patterns(history, categories, now=history[-1].occur_time + timedelta(days=days)).cluster

    spread = [Interaction(ItemId(f"n{number}"), "view", NOON + timedelta(minutes=number)) for number in range(25)]
    assert cluster(_views(0, 1)) is Cluster.NEWCOMER
    assert cluster(spread, days=31) is Cluster.DORMANT
    assert cluster([*spread, *_views(30, event_type="booking")]) is Cluster.DECIDER
    assert cluster(_views(*range(5))) is Cluster.SPECIALIST
    assert cluster(spread) is Cluster.RESEARCHER
    assert cluster(spread[:7]) is Cluster.REGULAR


def test_old_interest_fades() -> None:
    """After a month an interaction weighs half of a fresh one."""
    old = Interaction(ItemId("x"), "view", NOON - timedelta(days=30))
    new = Interaction(ItemId("y"), "view", NOON)
    shares = category_shares([old, new], {ItemId("x"): ("old",), ItemId("y"): ("new",)}, now=NOON)
    assert [one.category for one in shares] == ["new", "old"]
    assert math.isclose(2 / 3, shares[0].share)


def test_events_without_item_are_no_interactions() -> None:
    """A page view enters no history."""
    assert interaction_of(event(1, item_id=None)) is None
