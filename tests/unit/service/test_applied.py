from __future__ import annotations

from datetime import UTC, datetime

from server.domain import Event, EventId, ItemId, UserId
from server.service.applied import decode_applied, encode_applied


def test_interactions_arrive_as_they_were_sent() -> None:
    """Item, type and time survive the way; events without an item are not told."""
    moment = datetime(2024, 6, 1, 12, 30, tzinfo=UTC)
    events = [
        Event(event_id=EventId("1"), user_id=UserId("u"), item_id=ItemId("a/ü"), event_type="save", occur_time=moment),
        Event(event_id=EventId("2"), user_id=UserId("u"), item_id=None, event_type="page_view", occur_time=moment),
    ]
    assert list(decode_applied(encode_applied(events))) == [("a/ü", "save", moment)]
