"""Events for tests, and hypothesis strategies of them. Few distinct ids, so that they meet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from server.domain import Event, EventId, ItemId, UserId

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def event(number: int, **fields: Any) -> Event:
    """An event `e{number}` of user `ann` on item `i{number}`, `number` seconds past noon, unless fields say otherwise."""
    defaults: dict[str, Any] = {
        "event_id": EventId(f"e{number}"),
        "user_id": UserId("ann"),
        "item_id": ItemId(f"i{number}"),
        "event_type": "view",
        "occur_time": NOON + timedelta(seconds=number),
    }
    return Event(**(defaults | fields))


def events(users: tuple[str, ...] = ("ann", "bob"), max_size: int = 15) -> st.SearchStrategy[list[Event]]:
    """Lists of events whose ids are unique and whose times and items repeat."""
    one = st.builds(
        event,
        st.integers(0, 1000),
        user_id=st.sampled_from(users).map(UserId),
        item_id=st.none() | st.sampled_from(["a", "b", "c"]).map(ItemId),
        event_type=st.sampled_from(["view", "save", "booking"]),
        occur_time=st.integers(0, 20).map(lambda minutes: NOON + timedelta(minutes=minutes)),
    )
    return st.lists(one, max_size=max_size, unique_by=lambda made: made.event_id)
