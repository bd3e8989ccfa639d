from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.domain.ids import ItemId, UserId
from training.goals import ANY_GOAL
from training.outcomes import HORIZON_S, Happened, Shown, outcomes


def _shown(time_s: float, *items: str, user: str = "u") -> Shown:
    return Shown(UserId(user), time_s, tuple(map(ItemId, items)))


def _done(time_s: float, item: str, kind: str = "click", user: str = "u") -> Happened:
    return Happened(UserId(user), ItemId(item), ANY_GOAL(kind), time_s)


def test_an_event_belongs_to_the_newest_list_that_showed_its_item() -> None:
    """Not to a newer list without it, nor to an older one with it."""
    lists = [_shown(0, "a", "b"), _shown(10, "b", "a"), _shown(20, "b", "c")]
    assert outcomes(lists, [_done(30, "a")]) == [{}, {"a": 1.0}, {}]


def test_the_best_of_an_item_counts_once() -> None:
    """A click and a booking are worth a booking."""
    events = [_done(1, "a", "book"), _done(2, "a"), _done(3, "b", "save")]
    assert outcomes([_shown(0, "a", "b")], events) == [{"a": 4.0, "b": 2.0}]


def test_what_a_list_did_not_bring_about_is_no_outcome() -> None:
    """An event before or at its moment, a day later, by another user, on another item, worth nothing, or the impression itself."""
    events = [
        _done(99, "a"),
        _done(100, "a"),
        _done(100 + HORIZON_S + 1, "a"),
        _done(101, "a", user="v"),
        _done(101, "c"),
        _done(101, "a", "hide"),
        _done(101, "a", "Impression"),
    ]
    assert outcomes([_shown(100, "a", "b")], events) == [{}]
    assert outcomes([_shown(100, "a", "b")], [_done(100 + HORIZON_S, "a")]) == [{"a": 1.0}]


_TIMES = st.integers(0, 200_000).map(float)
_ITEMS = st.sampled_from("abc")
_USERS = st.sampled_from("uv")


@given(
    st.lists(st.builds(lambda t, i, u: _shown(t, *i, user=u), _TIMES, st.lists(_ITEMS, max_size=3), _USERS), max_size=8),
    st.lists(st.builds(lambda t, i, u: _done(t, i, user=u), _TIMES, _ITEMS, _USERS), max_size=8),
)
def test_every_event_counts_for_one_list_at_most_and_only_for_what_it_showed(lists: list[Shown], events: list[Happened]) -> None:
    """The outcomes are items of their lists, and no more than events."""
    found = outcomes(lists, events)
    assert sum(map(len, found)) <= len(events)
    for one, done in zip(lists, found, strict=True):
        assert done.keys() <= set(one.items)
        for item_id in done:
            assert any(
                event.item_id == item_id and event.user_id == one.user_id and 0 < event.time_s - one.time_s <= HORIZON_S for event in events
            )
