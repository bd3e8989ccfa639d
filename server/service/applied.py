"""Interactions that one worker applied, told to every replica: each counts what trends for itself.

At most once: a replica that misses some counts a little less until it loads the tenant anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import orjson

from server.domain import Event, ItemId

APPLIED = "applied"
"""Kind of the messages on the channel of invalidations."""


def encode_applied(events: Sequence[Event]) -> list[str]:
    """Returns the messages of events that concern an item."""
    return [orjson.dumps([one.item_id, one.event_type, one.occur_time.timestamp()]).decode() for one in events if one.item_id is not None]


def decode_applied(messages: Sequence[str]) -> Iterator[tuple[ItemId, str, datetime]]:
    """Yields item, event type and time of each message."""
    for message in messages:
        item_id, event_type, occur_time_s = orjson.loads(message)
        yield ItemId(item_id), event_type, datetime.fromtimestamp(occur_time_s, UTC)
