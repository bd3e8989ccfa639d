from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import BundleId, Decision, DecisionId, Event, EventId, ItemId, Rung, UserId
from server.domain.decisions import Ranking
from server.errors import InvalidFieldError
from server.stream.codec import decode_decision, decode_event, encode_decision, encode_event, pack, unpack
from tests.event_factories import NOON, event

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.builds(
    Event,
    event_id=TEXT.filter(bool).map(EventId),
    user_id=TEXT.filter(bool).map(UserId),
    item_id=st.none() | TEXT.map(ItemId),
    event_type=TEXT,
    occur_time=st.datetimes(timezones=st.just(UTC)),
    value=st.floats(allow_nan=False, allow_infinity=False),
    session_id=TEXT,
    anonymous_id=TEXT,
    properties=st.dictionaries(TEXT, JSON, max_size=3),
)


@given(st.lists(EVENTS, max_size=3))
def test_events_survive_the_stream(made: list[Event]) -> None:
    """What is packed is unpacked: ids, times to the microsecond, values and properties."""
    decoded = [decode_event(record) for record in unpack(pack(encode_event(one) for one in made))]
    assert made == decoded


def test_decisions_survive_the_stream() -> None:
    """A decision record comes back as it was."""
    decision = Decision(
        decision_id=DecisionId("d1"),
        user_id=UserId("ann"),
        method="RecommendItems",
        decide_time=NOON,
        ranking=Ranking.of(("a",), (0.5,), (1.0,), (0.125,)),
        candidates=(ItemId("a"), ItemId("b")),
        rung=Rung.NO_RANKER,
        bundle_id=BundleId("b-1"),
        runtime="local",
        arms={"layout": "wide"},
        context={"page": "home"},
    )
    record = orjson.loads(encode_decision(decision))
    assert decision == decode_decision(record)
    older = record | {"candidates": list(decision.candidates)} | orjson.loads(record.pop("ranking"))
    del older["ranking"]
    assert decision == decode_decision(older), "an entry that a process of the last version left in the stream"
    del older["probabilities"]
    assert replace(decision, ranking=Ranking.of(("a",), (0.5,), (1.0,))) == decode_decision(older), "one from before probabilities"


def test_nul_is_refused_wherever_it_stands_and_its_spelling_is_not() -> None:
    """U+0000 is refused in ids and in properties; the six characters backslash u0000 are text."""
    for bad in (event(1, event_id=EventId("a\0")), event(1, properties={"a": ["\0"]}), event(1, properties={"\0": 1})):
        with pytest.raises(InvalidFieldError, match="NUL"):
            encode_event(bad)
    spelled = event(1, properties={"a": "\\u0000"})
    assert spelled == decode_event(orjson.loads(encode_event(spelled)))


def test_a_value_that_is_no_number_is_refused() -> None:
    """NaN and infinity have no JSON, and no meaning as a weight."""
    for value in (float("nan"), float("inf")):
        with pytest.raises(InvalidFieldError, match="finite"):
            encode_event(event(1, value=value))


def test_an_event_of_nobody_is_refused() -> None:
    """An event needs a user or an anonymous id."""
    with pytest.raises(InvalidFieldError, match="anonymous_id"):
        encode_event(replace(event(1), user_id=UserId("")))


def test_what_json_cannot_hold_is_refused() -> None:
    """A property of an unknown type, or half a surrogate pair, is named as the reason."""
    for value in (object(), "\ud800", 2**70):
        with pytest.raises(InvalidFieldError, match="JSON"):
            encode_event(event(1, properties={"a": value}))


@given(st.binary(max_size=40) | JSON.map(orjson.dumps))
def test_garbage_is_a_value_error(payload: bytes) -> None:
    """Any bytes either unpack to events or raise ValueError, nothing else."""
    with contextlib.suppress(ValueError):
        [decode_event(record) for record in unpack(payload)]


@given(st.lists(st.dictionaries(st.sampled_from(["id", "user", "type", "time", "item", "value", "session", "anonymous"]), JSON)))
def test_wrong_fields_are_a_value_error(records: list[dict[str, object]]) -> None:
    """Objects with the right names and wrong values raise ValueError, nothing else."""
    for record in records:
        for decode in (decode_event, decode_decision):
            with contextlib.suppress(ValueError):
                decode(record)
