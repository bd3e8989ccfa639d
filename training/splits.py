"""One file of events as what to fit on and what came after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from server.errors import InvalidFieldError
from training.data import Progress, RawEvents, read_events


def read_split_by_time(path: Path, share: float, *, min_value: float | None, progress: Progress) -> tuple[RawEvents, RawEvents]:
    """Returns the events before a moment and the wanted ones from it on; the moment is the same for all users.

    Args:
        path: A file in the import format whose times can be compared across users.
        share: Of the events that lie before the moment, in (0, 1); fewer do where many share the time at the cut.
        min_value: Least `value` of an event that is asked for; None asks for all. Events of any value are fitted.
        progress: Told about each step.

    Raises:
        InvalidFieldError: The file is wrong, has no `value` where one is asked for, or nothing lies on one side of the cut.
    """
    events = read_events(path, progress)
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
