"""Profiles as bytes, for the caches."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from server.domain import EventId, Interaction, ItemId, Profile, UserId

_TIMES = ("event_date", "create_time", "update_time")


def encode_profile(profile: Profile) -> bytes:
    """Returns the profile as bytes; interactions are rows, which are half the size of objects."""
    fields = {name: getattr(profile, name) for name in Profile.__dataclass_fields__ if name != "history"}
    rows = [(one.item_id, one.event_type, one.occur_time, one.value, one.event_id, one.session_id) for one in profile.history]
    return orjson.dumps({**fields, "history": rows}, option=orjson.OPT_UTC_Z)


def decode_profile(content: bytes) -> Profile:
    """Returns the profile that `encode_profile` wrote."""
    fields: dict[str, Any] = orjson.loads(content)
    fields["user_id"] = UserId(fields["user_id"])
    fields.update({name: _time(fields[name]) for name in _TIMES})
    fields["history"] = tuple(
        Interaction(ItemId(item_id), kind, datetime.fromisoformat(moment), value, EventId(event_id), session)
        for item_id, kind, moment, value, event_id, session in fields["history"]
    )
    return Profile(**fields)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
