"""What is left of a call's time."""

from __future__ import annotations

import time


def left_s(deadline: float) -> float:
    """Returns the seconds until a deadline, a `time.monotonic()`. Not negative."""
    return max(0.0, deadline - time.monotonic())
