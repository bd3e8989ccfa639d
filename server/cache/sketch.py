"""How often keys were met lately, in a few bytes a key.

Source: G. Cormode, S. Muthukrishnan, "An improved data stream summary: the count-min sketch and its applications", Journal of Algorithms 55
(2005), with small counters that are halved now and then, as in TinyLFU.
"""

from __future__ import annotations

import numpy as np

_ROWS = 4
_MOST = 15
_MIX = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)
"""Odd constants of 64 bits that spread a hash differently for each row."""
_WORD = (1 << 64) - 1


class Sketch:
    """Counts up to 15, never below the truth since the last halving."""

    def __init__(self, keys: int) -> None:
        """`keys`: About how many different keys matter at a time; four bytes for each."""
        bits = max(10, (max(1, keys) - 1).bit_length())
        self._shift = 64 - bits
        self._rows = [bytearray(1 << bits) for _ in range(_ROWS)]

    def add(self, hashed: int) -> None:
        """Counts a key by its hash."""
        for row, mix in zip(self._rows, _MIX, strict=True):
            place = (hashed * mix & _WORD) >> self._shift
            if row[place] < _MOST:
                row[place] += 1

    def count(self, hashed: int) -> int:
        """Returns how often the key was counted, or more where all its places are shared."""
        return min(row[(hashed * mix & _WORD) >> self._shift] for row, mix in zip(self._rows, _MIX, strict=True))

    def halve(self) -> None:
        """Halves all counts, so that what was read long ago fades."""
        for row in self._rows:
            counts = np.frombuffer(row, np.uint8)
            counts >>= 1
