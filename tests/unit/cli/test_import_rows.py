from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.cli.import_rows import EventReader, item_of, user_of
from server.domain import Item, ItemId, TenantId, UserId
from server.errors import InvalidFieldError

EVENT = {"user_id": "u1", "item_id": "i1", "event_type": "view", "occurred_at": "1388534400"}


def read_event(**fields: Any) -> Any:
    """Returns the event of a row that differs from a good one in the given fields."""
    return EventReader(TenantId("t"))({**EVENT, **fields})


def test_an_item_row_of_a_csv_file_becomes_an_item() -> None:
    """Text fields are parsed: '|' separates categories, attributes are JSON, times RFC 3339 or epoch seconds."""
    row = {
        "item_id": "v1",
        "title": "Quinta",
        "description": "",
        "categories": "Venue| Garden ||Venue",
        "attributes": '{"city": "Porto", "seats": 120}',
        "price": "4999.50",
        "currency": "EUR",
        "language": "pt",
        "available_from": "2026-05-01T00:00:00+02:00",
        "available_until": "1798761600",
    }
    wanted = Item(
        item_id=ItemId("v1"),
        title="Quinta",
        categories=("Venue", "Garden"),
        attributes={"city": "Porto", "seats": 120},
        price=4999.5,
        currency="EUR",
        language="pt",
        available_from=datetime(2026, 4, 30, 22, tzinfo=UTC),
        available_until=datetime(2027, 1, 1, tzinfo=UTC),
    )
    assert item_of(row) == wanted


def test_typed_values_of_jsonl_and_parquet_are_taken_as_they_are() -> None:
    """Lists, objects, numbers, times and integer ids need no text form."""
    row = {"item_id": 7, "title": "T", "categories": ["a|b"], "attributes": {"x": [1]}, "price": 3, "available_from": datetime(2026, 1, 1)}  # noqa: DTZ001
    item = item_of(row)
    assert (item.item_id, item.categories, item.attributes, item.price) == ("7", ("a|b",), {"x": [1]}, 3.0)
    assert item.available_from == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("item_id", ""),
        ("item_id", None),
        ("item_id", "a" * 257),
        ("item_id", "a/b"),
        ("item_id", "a\nb"),
        ("item_id", "a\0b"),
        ("item_id", "caf\udce9"),
        ("item_id", True),
        ("item_id", ["a"]),
        ("title", ""),
        ("title", "   "),
        ("title", "a" * 1001),
        ("title", "a\0b"),
        ("title", "\x1b[31m"),
        ("title", {"en": "T"}),
        ("description", "a" * 20_001),
        ("description", "\udcff"),
        ("categories", 5),
        ("categories", [1]),
        ("categories", '["a", 1]'),
        ("categories", "|".join(map(str, range(65)))),
        ("categories", "a" * 201),
        ("categories", "a\0"),
        ("attributes", "{"),
        ("attributes", "[1]"),
        ("attributes", "NaN"),
        ("attributes", '{"a": NaN}'),
        ("attributes", {"a": "x\0"}),
        ("attributes", {"\0": 1}),
        ("attributes", '{"a": ["\\u0000"]}'),
        ("attributes", {"a": "x" * 70_000}),
        ("attributes", {1: 2}),
        ("content_type", "Hero Banner"),
        ("price", "NaN"),
        ("price", float("nan")),
        ("price", "inf"),
        ("price", "-1"),
        ("price", "12,50"),
        ("price", "free"),
        ("price", True),
        ("currency", "euro"),
        ("currency", "eur"),
        ("language", "x" * 36),
        ("available_from", "soon"),
        ("available_from", "2026-13-01"),
        ("available_from", "1767225600000"),
        ("available_from", float("inf")),
        ("available_from", "0001-01-01T00:00:00+14:00"),
        ("available_from", []),
    ],
)
def test_a_wrong_item_field_is_named(field: str, value: Any) -> None:
    """Each wrong value is refused with the field's name and what to write."""
    with pytest.raises(InvalidFieldError) as raised:
        item_of({"item_id": "v1", "title": "T", field: value})
    assert raised.value.field == field
    assert len(raised.value.message) < 300


def test_an_item_cannot_end_before_it_starts() -> None:
    """available_until must come after available_from."""
    with pytest.raises(InvalidFieldError, match="available_until"):
        item_of({"item_id": "v1", "title": "T", "available_from": "2026-01-02", "available_until": "2026-01-02"})


def test_a_literal_backslash_u0000_is_text() -> None:
    """Only the character U+0000 is refused, not the six characters that write it."""
    assert item_of({"item_id": "v1", "title": "T", "attributes": {"a": "\\u0000"}}).attributes == {"a": "\\u0000"}


def test_a_user_row_becomes_a_user() -> None:
    """Traits are JSON, the date may be a plain date, read as midnight UTC."""
    user = user_of(
        {"user_id": "u1", "traits": '{"guests": 80}', "locale": "pt-PT", "time_zone": "Europe/Lisbon", "event_date": "2027-06-05"}
    )
    assert (user.user_id, user.traits, user.locale, user.time_zone) == ("u1", {"guests": 80}, "pt-PT", "Europe/Lisbon")
    assert user.event_date == datetime(2027, 6, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "written", ["1388534400", 1388534400, 1388534400.0, "2014-01-01T00:00:00Z", "2014-01-01T01:00:00+01:00", "2014-01-01"]
)
def test_one_moment_written_in_several_ways_is_one_time(written: Any) -> None:
    """Epoch seconds and RFC 3339 meet, and rows that differ in writing only get one derived id."""
    event = read_event(occurred_at=written)
    assert event.occur_time == datetime(2014, 1, 1, tzinfo=UTC)
    assert event.event_id == read_event().event_id


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_id", ""),
        ("user_id", "a" * 257),
        ("item_id", "a/b"),
        ("event_type", ""),
        ("event_type", "View Item"),
        ("event_type", "a" * 65),
        ("occurred_at", ""),
        ("occurred_at", "yesterday"),
        ("occurred_at", "1388534400000"),
        ("occurred_at", datetime.now(UTC) + timedelta(days=2)),
        ("value", "nan"),
        ("value", "x"),
        ("event_id", "a" * 129),
        ("session_id", "a" * 129),
        ("anonymous_id", "a/b"),
        ("properties", "[]"),
        ("properties", {"a": "x" * 17_000}),
    ],
)
def test_a_wrong_event_field_is_named(field: str, value: Any) -> None:
    """Each wrong value is refused with the field's name."""
    with pytest.raises(InvalidFieldError) as raised:
        read_event(**{field: value})
    assert raised.value.field == field


def test_an_event_needs_a_user_or_an_anonymous_id_and_no_item() -> None:
    """A device's events have no user; a page view has no item."""
    event = read_event(user_id="", anonymous_id="device-1", item_id="")
    assert (event.user_id, event.anonymous_id, event.item_id) == ("", "device-1", None)


def test_derived_ids_are_the_same_for_the_same_rows_in_any_order_of_others() -> None:
    """Equal rows get ids of their own, by their place among equals; a second reading of the rows gives the same ids."""
    rows = [EVENT, {**EVENT, "item_id": "i2"}, EVENT, EVENT]
    first, second = EventReader(TenantId("t")), EventReader(TenantId("t"))
    ids = [first(row).event_id for row in rows]
    assert len(set(ids)) == 4
    assert ids[1:2] + ids[0:1] + ids[2:] == [second(row).event_id for row in [rows[1], rows[0], *rows[2:]]]


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "u2"},
        {"item_id": "i2"},
        {"item_id": ""},
        {"event_type": "book"},
        {"occurred_at": "1388534401"},
        {"occurred_at": "1388534400.5"},
    ],
)
def test_rows_that_differ_get_different_ids(change: dict[str, str]) -> None:
    """User, item, type and time each make another event; so does the tenant."""
    assert read_event(**change).event_id != read_event().event_id
    assert EventReader(TenantId("other"))(EVENT).event_id != read_event().event_id


def test_a_given_event_id_is_kept() -> None:
    """The sender's id is the event's."""
    assert read_event(event_id="mine").event_id == "mine"


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


_patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
"""Building Unicode tables takes seconds on a busy machine."""


@_patient
@given(
    st.dictionaries(
        st.sampled_from(["item_id", "title", "categories", "attributes", "price", "available_from", "language"]), _json | st.datetimes()
    )
)
def test_any_row_is_an_item_or_a_named_complaint(row: dict[str, Any]) -> None:
    """Whatever stands in a row, reading it gives an item that the database can hold, or an error that names a field."""
    item, field = None, ""
    try:
        item = item_of({"item_id": "v1", "title": "T", **row})
    except InvalidFieldError as error:
        field = error.field
    if item is None:
        assert field in row
    else:
        assert 1 <= len(item.item_id) <= 256
        assert "\0" not in item.title + item.description
        assert item.price is None or item.price >= 0


@_patient
@given(
    st.datetimes(
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))]),
        max_value=datetime(2025, 1, 1),  # noqa: DTZ001  # the strategy adds the zone
    )
)
def test_written_times_are_read_back(moment: datetime) -> None:
    """An RFC 3339 time is read as the moment it names, or refused as out of range."""
    try:
        assert read_event(occurred_at=moment.isoformat()).occur_time == moment
    except InvalidFieldError:
        assert moment.year == 1


def test_users_are_checked_like_items() -> None:
    """A user without id, or with traits that are no object, is refused."""
    assert user_of({"user_id": 5}).user_id == UserId("5")
    for row in ({}, {"user_id": "u", "traits": "[]"}, {"user_id": "u", "event_date": "x"}, {"user_id": "u", "time_zone": "x" * 65}):
        with pytest.raises(InvalidFieldError):
            user_of(row)
