"""Events and decisions as bytes: one JSON object each, and a JSON array of them as the payload of a stream entry."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from server.domain import BundleId, Decision, DecisionId, Event, EventId, ItemId, Rung, UserId
from server.domain.decisions import PackedIds, Ranking, pack_ids
from server.errors import InvalidFieldError

_OPTIONS = orjson.OPT_NON_STR_KEYS
_NUL = "holds a NUL character (U+0000), which no text may; remove it"


def pack(records: Iterable[bytes]) -> bytes:
    """Returns the payload of an entry that holds these records."""
    return b"[" + b",".join(records) + b"]"


def unpack(payload: bytes) -> list[Any]:
    """Returns the records of a payload as JSON values.

    Raises:
        ValueError: It is not a JSON array.
    """
    records = orjson.loads(payload)
    if not isinstance(records, list):
        raise ValueError("payload is not a list of records")  # noqa: TRY004  # one class for every undecodable payload
    return records


def encode_event(event: Event) -> bytes:
    """Returns the event as a JSON object.

    Raises:
        InvalidFieldError: It has neither user nor `anonymous_id`, or holds what JSON or Postgres cannot: a NUL character, a `value` that
            is not finite, an unknown type.
    """
    if not math.isfinite(event.value):
        raise InvalidFieldError("value", "is not a finite number; send one, or leave it out")
    if not event.user_id and not event.anonymous_id:
        raise InvalidFieldError("user", "is empty and so is anonymous_id; send one of them")
    record: dict[str, Any] = {"id": event.event_id, "user": event.user_id, "type": event.event_type}
    record["time"] = _utc(event.occur_time)
    record["item"] = event.item_id
    record["value"] = event.value
    if event.session_id:
        record["session"] = event.session_id
    if event.anonymous_id:
        record["anonymous"] = event.anonymous_id
    if event.properties:
        record["properties"] = event.properties
    return _encode(record, "event")


def decode_event(record: Any) -> Event:
    """Returns the event of a JSON object that `encode_event` made.

    Raises:
        ValueError: It is not one.
    """
    try:
        event = Event(
            event_id=EventId(_text(record, "id")),
            user_id=UserId(_text(record, "user")),
            item_id=ItemId(record["item"]) if record.get("item") is not None else None,
            event_type=_text(record, "type"),
            occur_time=_time(record, "time"),
            value=float(record["value"]),
            session_id=record.get("session", ""),
            anonymous_id=record.get("anonymous", ""),
            properties=record.get("properties", {}),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {error!r}") from error
    if not event.event_id or not (event.user_id or event.anonymous_id):
        raise ValueError("not an event: it has no id, or no user")
    return event


def encode_decision(decision: Decision) -> bytes:
    """Returns the decision as a JSON object.

    Raises:
        InvalidFieldError: `context` holds what JSON cannot, or a string has a NUL character.
    """
    if "\\u0000" in decision.ranking.text and any("\0" in item_id for item_id in decision.ranking.items):
        raise InvalidFieldError("items", _NUL)
    record = {
        "id": decision.decision_id,
        "user": decision.user_id,
        "method": decision.method,
        "time": _utc(decision.decide_time),
        "ranking": decision.ranking.text,
        "candidates": base64.b64encode(pack_ids(decision.candidates)).decode(),
        "rung": int(decision.rung),
        "bundle": decision.bundle_id,
        "runtime": decision.runtime,
        "arms": dict(decision.arms),
        "context": dict(decision.context),
    }
    return _encode(record, "decision")


def decode_decision(record: Any) -> Decision:
    """Returns the decision of a JSON object that `encode_decision` made.

    Raises:
        ValueError: It is not one.
    """
    try:
        return Decision(
            decision_id=DecisionId(_text(record, "id")),
            user_id=UserId(_text(record, "user")),
            method=_text(record, "method"),
            decide_time=_time(record, "time"),
            ranking=_ranking(record),
            candidates=_candidates(record["candidates"]),
            rung=Rung(record["rung"]),
            bundle_id=BundleId(record["bundle"]),
            runtime=record["runtime"],
            arms=record["arms"],
            context=record["context"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a decision: {error!r}") from error


def _ranking(record: Any) -> Ranking:
    """Returns the list of a record; one of an older process holds it in parts, and maybe no probabilities."""
    if "ranking" in record:
        return Ranking(_text(record, "ranking"))
    return Ranking.of(record["items"], record["scores"], record["propensities"], record.get("probabilities", ()))


def _candidates(value: Any) -> Sequence[ItemId]:
    """Returns the candidates of a record; one of an older process holds their list."""
    return PackedIds(base64.b64decode(value, validate=True)) if isinstance(value, str) else tuple(map(ItemId, value))


def _encode(record: Mapping[str, Any], kind: str) -> bytes:
    try:
        encoded = orjson.dumps(record, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        raise InvalidFieldError(kind, f"cannot be written as JSON ({error}); send strings, numbers, booleans, lists and objects") from error
    # Postgres has no NUL in text. A literal backslash before u0000 looks alike, so a match is looked at again.
    if b"\\u0000" in encoded and _has_nul(orjson.loads(encoded)):
        raise InvalidFieldError(kind, _NUL)
    return encoded


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_has_nul(item) for item in value)


def _text(record: Any, key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {type(value).__name__}, not text")
    return value


def _utc(time: datetime) -> datetime:
    """Returns the moment in UTC: offsets of old zones have seconds, which RFC 3339 cannot write."""
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as error:
        raise InvalidFieldError("occur_time", "lies outside the years 1 to 9999; send a time within") from error


def _time(record: Any, key: str) -> datetime:
    time = datetime.fromisoformat(_text(record, key))
    return time if time.tzinfo else time.replace(tzinfo=UTC)
