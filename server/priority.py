"""Who gets a core that several want: the event loop, then what can wait."""

from __future__ import annotations

import os

STEP = 5
"""Levels of niceness between the event loop and a model or work on an index: the loop gets three times their share of a core."""


def step_back() -> None:
    """Puts this thread `STEP` levels behind. On Linux niceness is a thread's own, and threads that it starts inherit it."""
    os.nice(STEP)
