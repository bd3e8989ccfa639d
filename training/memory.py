"""Memory that was freed, but not yet to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Has the C library hand freed memory back to the system, in some 100 ms a gigabyte; nothing where it is not glibc.

    It keeps pieces below 32 MB for itself. After an epoch of batches of all sizes that is up to a gigabyte, of no use to the large arrays
    of the next stage, which are mapped on their own.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
