"""Small data whose answer is known by construction."""

from __future__ import annotations

from training.data import Interactions, RawEvents, Vocabulary, raw_events


def events_of(histories: dict[str, list[str]], *, start_s: float = 0.0) -> RawEvents:
    """Returns one event an hour for each user, in the order given."""
    rows = ((user, item, "click", start_s + 3600.0 * step) for user, items in histories.items() for step, item in enumerate(items))
    return raw_events(rows)


def arrays_of(histories: dict[str, list[str]]) -> tuple[Vocabulary, Interactions]:
    """Returns the same as arrays."""
    events = events_of(histories)
    vocabulary = Vocabulary.of([events])
    return vocabulary, vocabulary.encode(events)


def two_camps(*, users: int = 60, items: int = 12, length: int = 6) -> dict[str, list[str]]:
    """Returns a checkerboard: even users walk round the even items, odd users round the odd ones, each from another start."""
    return {f"u{user:03}": [f"i{(2 * (user // 2 + step) + user % 2) % items:02}" for step in range(length)] for user in range(users)}
