"""What to fit on and what came after it: of a file, and of what is fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidFieldError
from training.data import Interactions, Progress, RawEvents, read_events

LEAST_HISTORY = 3
"""Interactions of a user whose last one may be held out."""

_SLICE = 0.2
_ENOUGH_USERS = 50
_DISLIKED = "dismiss"


def held_out(interactions: Interactions) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns which interactions choose the fusion, and which of the others may be fitted meanwhile, (E,) each.

    The newest fifth chooses, as a server asks: with what was known before. Where times cannot be compared across users, or fewer than 50
    users have both a history and something new in that fifth, the last interaction of each user does, and all others are fitted.
    """
    counts = interactions.weights > 0
    if interactions.has_real_times():
        late = interactions.times >= np.sort(interactions.times)[int((1 - _SLICE) * len(interactions.times))]
        pairs = interactions.pairs()
        new = late & counts & ~np.isin(pairs, pairs[~late])
        users = np.intersect1d(interactions.users[new], interactions.users[~late])
        if len(users) >= _ENOUGH_USERS:
            return late & counts, ~late
    last = interactions.last_of_each(least=LEAST_HISTORY) & counts
    return last, ~last


def read_split_by_time(path: Path, share: float, *, min_value: float | None, progress: Progress) -> tuple[RawEvents, RawEvents]:
    """Returns the events before a moment and the wanted ones from it on; the moment is the same for all users.

    Args:
        path: A file in the import format whose times can be compared across users.
        share: Of the events that lie before the moment, in (0, 1); fewer do where many share the time at the cut.
        min_value: Least `value` of an event that is asked for; None asks for all. Events below it are known, and count for nothing.
        progress: Told about each step.

    Raises:
        InvalidFieldError: The file is wrong, has no `value` where one is asked for, or nothing lies on one side of the cut.
    """
    events = read_events(path, progress, min_value=min_value, below=_DISLIKED)
    if not events.users:
        raise InvalidFieldError("events", f"{path} holds no interactions; give a file with at least one row that names an item")
    moment = np.sort(events.times)[min(int(share * len(events.times)), len(events.times) - 1)]
    train = events.select(events.times < moment)
    if not train.users:
        raise InvalidFieldError(
            "occurred_at", f"leaves nothing before the cut in {path}: too many events share the first time; use --train and --test"
        )
    wanted = events if min_value is None else read_events(path, progress, min_value=min_value)
    test = wanted.select(wanted.times >= moment)
    if not test.users:
        raise InvalidFieldError("value", f"is below {min_value} in every row of {path} after the cut; lower --min-value")
    return train, test
