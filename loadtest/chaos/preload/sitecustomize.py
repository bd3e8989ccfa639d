"""Imported at the start by each Python that has this folder on its path: lets `time.sleep` sleep under libfaketime.

Version 0.9.10, which Debian 12 has, fails the system call that Python 3.11 sleeps by when only the wall clock is set.
Source: https://github.com/wolfcw/libfaketime/issues/426.
"""

from __future__ import annotations

import select
import time
from typing import SupportsIndex


def sleep(seconds: float | SupportsIndex, /) -> None:
    """Sleeps, on the monotonic clock as `time.sleep` does."""
    select.select([], [], [], float(seconds))


time.sleep = sleep
