from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from server.domain import Event, EventId, Interaction, ItemId, Profile, UserId
from server.domain.history import apply_events, merge_history, overlay, subject_of
from server.domain.profiles import HISTORY_LIMIT
from tests.event_factories import NOON, event, events

ANN = Profile(user_id=UserId("ann"))


def _split(made: list[Event], cut: int) -> tuple[Profile, list[Event]]:
    """A profile that earlier events built, and the later ones."""
    mine = [one for one in made if one.user_id == "ann"]
    return apply_events(ANN, mine[:cut]), mine[cut:]


@given(events(max_size=20), st.integers(0, 20))
def test_overlay_then_apply_is_apply(made: list[Event], cut: int) -> None:
    """Events shown early count once when they are applied."""
    profile, later = _split(made, cut)
    assert apply_events(profile, later) == apply_events(overlay(profile, later), later)


@given(events(max_size=20), st.integers(0, 20))
def test_overlay_of_applied_events_changes_nothing(made: list[Event], cut: int) -> None:
    """A reader that lays events over a profile that has them already sees that profile."""
    profile, later = _split(made, cut)
    applied = apply_events(profile, later)
    assert applied == overlay(applied, later)
    assert overlay(profile, later) == overlay(overlay(profile, later), later)
    assert applied.history == overlay(profile, later).history


@given(events())
def test_overlay_passes_over_other_users(made: list[Event]) -> None:
    """Events of others in the same stream entry leave a profile alone."""
    others = [one for one in made if one.user_id != "ann"]
    assert overlay(ANN, others) == ANN


@given(st.lists(st.integers(0, 400), min_size=60, max_size=150), st.lists(st.integers(0, 400), max_size=150))
def test_history_is_ordered_bounded_and_each_event_once(first: list[int], second: list[int]) -> None:
    """A history holds the newest events in order of time, each once, at most the limit."""

    def interactions(seconds: list[int]) -> list[Interaction]:
        return [Interaction(ItemId("i"), "view", NOON + timedelta(seconds=one), 1.0, EventId(f"e{one}")) for one in seconds]

    merged = merge_history(merge_history((), interactions(first)), interactions(second))
    ids = [one.event_id for one in merged]
    newest = sorted(set(first) | set(second))[-HISTORY_LIMIT:]
    assert len(ids) == len(set(ids))
    assert [f"e{one}" for one in newest] == ids


def test_equal_times_keep_the_order_of_arrival() -> None:
    """Of two events of one moment, the one known first stands first."""
    profile = overlay(ANN, [event(2, occur_time=NOON), event(1, occur_time=NOON)])
    profile = overlay(profile, [event(3, occur_time=NOON)])
    assert [one.item_id for one in profile.history] == ["i2", "i1", "i3"]


def test_an_event_without_user_belongs_to_its_anonymous_id() -> None:
    """Until identified, an anonymous visitor is a user of that id."""
    assert subject_of(event(1, user_id=UserId(""), anonymous_id="device-7")) == "device-7"
    assert subject_of(event(1, anonymous_id="device-7")) == "ann"
