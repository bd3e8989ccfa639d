"""What Segment's messages come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.compat.segment.messages import Message, event_type, meant_by, repaired_time
from server.errors import InvalidFieldError

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)

_moments = st.datetimes(datetime(2000, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # the zone is beside it
_spans = st.timedeltas(timedelta(days=-30), timedelta(days=30))


def message(**fields: Any) -> Message:
    """Returns a message."""
    return Message.model_validate(fields)


@given(happened=_moments, waited=_spans, wrong=_spans, hours=st.integers(-12, 12))
def test_the_clients_clock_does_not_matter(happened: datetime, waited: timedelta, wrong: timedelta, hours: int) -> None:
    """The repaired time is the receipt less the wait, however wrong the client's clock, and in whatever zone it writes."""
    zone = timezone(timedelta(hours=hours))
    sent = (happened + waited + wrong).astimezone(zone)
    written = message(type="track", timestamp=(happened + wrong).astimezone(zone).isoformat())
    assert repaired_time(written, sent, NOW) == NOW - waited


def test_times_that_are_missing() -> None:
    """Without a timestamp it happened now; without sentAt the timestamp is believed; a message's own sentAt counts before the batch's."""
    assert repaired_time(message(), NOW, NOW) == NOW
    assert repaired_time(message(timestamp="2026-05-01T00:00:00Z"), None, NOW) == datetime(2026, 5, 1, tzinfo=UTC)
    own = message(originalTimestamp="2026-05-01T00:00:00Z", timestamp="2020-01-01T00:00:00Z", sentAt="2026-05-01T00:00:09Z")
    assert repaired_time(own, NOW, NOW) == NOW - timedelta(seconds=9)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Product Viewed", "view"),
        ("orderCompleted", "purchase"),
        ("Ver más", "ver_m_s"),
        ("3D tour", "e_3d_tour"),
        ("Élan!", "lan"),
        ("…", ""),
    ],
)
def test_names_become_event_types(name: str, kind: str) -> None:
    """Names become lower-case words joined by underscores, those of the e-commerce spec the types that weigh here."""
    assert event_type(name) == kind


@given(name=st.text(max_size=100))
def test_every_name_is_a_type_or_none(name: str) -> None:
    """Whatever the name, its type is one that IngestEvents takes, or empty."""
    kind = event_type(name)
    assert kind == "" or (len(kind) <= 64 and kind[0].isalpha() and set(kind) <= set("abcdefghijklmnopqrstuvwxyz0123456789_"))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"type": "track", "event": "x"}, "userId"),
        ({"type": "track", "userId": "u"}, "event"),
        ({"type": "group", "userId": "u"}, "groupId"),
        ({"type": "alias", "userId": "u"}, "previousId"),
        ({"type": "delete", "userId": "u"}, "type"),
    ],
)
def test_what_is_missing_is_named(fields: dict[str, Any], named: str) -> None:
    """A message without what its type needs is refused with the field's name."""
    with pytest.raises(InvalidFieldError) as caught:
        meant_by(message(**fields), None, NOW, "id")
    assert caught.value.field == named


def test_products_of_an_order_are_events_of_their_own() -> None:
    """Each product is an event with an id of its own, the order's other properties with it; those without id are passed over."""
    products = [{"product_id": 7, "price": 3}, {"name": "no id"}, {"sku": "b"}]
    order = message(
        type="track", userId="u", event="Order Completed", messageId="m", properties={"products": products, "total": 9, "coupon": "c"}
    )
    events = meant_by(order, None, NOW, "id").events
    assert [(one.event_id, one.item, one.value, one.event_type) for one in events] == [
        ("m:0", "items/7", 9, "purchase"),
        ("m:2", "items/b", 9, "purchase"),
    ]
    assert dict(events[0].properties.items())["coupon"] == "c"
