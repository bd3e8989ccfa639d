"""Small data whose answer is known by construction."""

from __future__ import annotations

import numpy as np

from server.domain.ids import ItemId
from training.data import Interactions, RawEvents, Vocabulary, raw_events
from training.evaluate import Study
from training.model import Model
from training.report.build import ModelReport
from training.report.findings import study_report


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


def two_tastes(*, users: int = 600, items: int = 300, length: int = 5, seed: int = 0) -> tuple[Vocabulary, Interactions, list[str]]:
    """Returns two camps of users at random over two halves of the items, and the items' titles.

    Each item is called by two of its camp's forty words and a word of its own: items of a camp seldom share a word, so only histories tell
    that the words belong together.
    """
    generator = np.random.default_rng(seed)
    ids = [f"i{item:03}" for item in range(items)]
    words = [generator.choice(40, 2, replace=False) for _ in ids]
    titles = [f"w{2 * first + item % 2} w{2 * second + item % 2} own{item}" for item, (first, second) in enumerate(words)]
    drawn = [generator.choice(items // 2, length, replace=False) for _ in range(users)]
    events = events_of({f"u{user:03}": [ids[2 * place + user % 2] for place in places] for user, places in enumerate(drawn)})
    vocabulary = Vocabulary.of([events], map(ItemId, ids))
    return vocabulary, vocabulary.encode(events), titles


def no_report(model: Model, interactions: Interactions) -> ModelReport:
    """Returns the report of a model that nothing was held out from."""
    return study_report(Study.unjudged(model, interactions), interactions, progress=lambda _step, _share: None)
