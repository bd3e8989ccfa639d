"""Which items of a history may be recommended again."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from server.domain import Interaction, ItemId
from server.domain.shaping import ShapingPolicy, booked_items, seen_items

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = ("view", "Play", "purchase", "booking", "reorder", "dismiss")


def history(*pairs: tuple[str, str]) -> list[Interaction]:
    """Returns interactions of (item, event type)."""
    return [Interaction(ItemId(item), kind, NOW) for item, kind in pairs]


histories = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(KINDS)), max_size=12).map(lambda pairs: history(*pairs))
policies = st.builds(
    ShapingPolicy,
    booked=st.lists(st.sampled_from(["purchase", "booking", "play"]), unique=True).map(tuple),
    repeatable=st.lists(st.sampled_from(["play", "reorder", "purchase"]), unique=True).map(tuple),
)


def test_what_was_booked_is_out_for_good() -> None:
    """An item booked or bought is never recommended again, in whatever case the type is written; one that was merely viewed may be."""
    assert booked_items(history(("a", "view"), ("b", "Booking"), ("c", "purchase")), ShapingPolicy()) == {"b", "c"}


def test_a_repeatable_purchase_books_nothing() -> None:
    """Where purchases are repeatable, what was bought may be recommended again."""
    policy = ShapingPolicy(repeatable=("purchase",))
    bought = history(("a", "purchase"), ("b", "booking"))
    assert booked_items(bought, policy) == {"b"}
    assert seen_items(bought, policy) == {"b"}


def test_what_was_played_may_come_again_until_it_is_dismissed() -> None:
    """A repeatable event lets an item come back although it was viewed too; a dismissal keeps it out."""
    policy = ShapingPolicy(repeatable=("play",))
    assert seen_items(history(("a", "view"), ("a", "Play"), ("b", "view"), ("c", "play"), ("c", "dismiss")), policy) == {"b", "c"}


@given(histories, policies)
def test_only_repeatable_events_shrink_what_was_seen(interactions: list[Interaction], policy: ShapingPolicy) -> None:
    """Each seen item left out of the seen ones has a repeatable event; without repeatable types every item of the history is seen."""
    everything = {one.item_id for one in interactions}
    seen = seen_items(interactions, policy)
    assert seen_items(interactions, ShapingPolicy()) == everything
    for item in everything - seen:
        assert any(one.event_type.lower() in policy.repeatable for one in interactions if one.item_id == item)


@given(histories, policies)
def test_an_item_is_booked_by_an_event_that_books_alone(interactions: list[Interaction], policy: ShapingPolicy) -> None:
    """An item is booked exactly if one of its events is of a type that books and is not repeatable."""
    for item in {one.item_id for one in interactions}:
        kinds = {one.event_type.lower() for one in interactions if one.item_id == item}
        assert (item in booked_items(interactions, policy)) == bool(kinds & (set(policy.booked) - set(policy.repeatable)))
