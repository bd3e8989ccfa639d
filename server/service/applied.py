"""Interactions that one worker applied, told to every replica: each counts for itself what trends and what goes together.

At most once: what a replica misses while it is cut off from the channel, it reads from the database once it is back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from server.store.sequences import Action, AppliedEvents, AppliedSequence

APPLIED = "applied"
"""Kind of the messages on the channel of invalidations."""

_MESSAGE_BYTES = 1 << 14
"""A publication's size at most, unless one user's sequence is longer: who hears it is busy for some 5 ms."""


def encode_applied(applied: AppliedEvents) -> Iterator[list[str]]:
    """Yields the messages of a transaction, one a user, as many at a time as one publication may carry."""
    messages: list[str] = []
    size = 0
    for one in applied.sequences:
        message = orjson.dumps([applied.transaction, one.items, one.new, [list(action) for action in one.actions]]).decode()
        if messages and size + len(message) > _MESSAGE_BYTES:
            yield messages
            messages, size = [], 0
        messages.append(message)
        size += len(message)
    if messages:
        yield messages


def decode_applied(messages: Sequence[str]) -> Iterator[tuple[int, AppliedSequence]]:
    """Yields the transaction and the user's sequence of each message."""
    for message in messages:
        transaction, items, new, actions = orjson.loads(message)
        yield transaction, AppliedSequence(tuple(items), tuple(new), tuple(Action(*action) for action in actions))
