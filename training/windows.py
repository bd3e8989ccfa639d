"""Users in common where histories are longer than what the server knows of a user: an item meets the interactions just before it only.

Shapes: E interactions, N items, B item rows of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from training.data import Interactions

IntArray: TypeAlias = NDArray[np.int64]

_PAIRS = 4_000_000
"""Pairs held before they are added up: bounds memory at some 100 MB."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Interactions of users with long histories, and what the window says of each."""

    interactions: Interactions
    window: int
    """Interactions before one that it meets."""
    next_same: IntArray
    """(E,): place of the user's next interaction with the item; past all where there is none."""
    fresh: NDArray[np.bool_]
    """(E,): whether the item is not among the `window` interactions before."""

    @classmethod
    def split(cls, interactions: Interactions, window: int) -> tuple[Windows, Interactions]:
        """Returns the windows of users with more than `window` + 1 interactions, and the interactions of all others."""
        long = (np.diff(interactions.starts) > window + 1)[interactions.users]
        if not long.any():
            nothing = interactions.select(long)
            return cls(nothing, window, np.zeros(0, np.int64), np.zeros(0, np.bool_)), interactions
        chosen = interactions.select(long)
        places = np.arange(len(chosen.users))
        order = np.lexsort((places, chosen.items, chosen.users))
        same = np.flatnonzero((np.diff(chosen.users[order]) == 0) & (np.diff(chosen.items[order]) == 0))
        next_same, last_same = np.full(len(places), 2 * len(places) + window), np.full(len(places), -1 - window)
        next_same[order[same]] = order[same + 1]
        last_same[order[same + 1]] = order[same]
        return cls(chosen, window, next_same, places - last_same > window), interactions.select(~long)

    def users(self) -> NDArray[np.float32]:
        """Returns how often each item was fresh, float32, (N,)."""
        return np.bincount(self.interactions.items[self.fresh], minlength=self.interactions.item_count).astype(np.float32)

    def together(self, start: int, stop: int) -> sp.csr_matrix:
        """Returns how often each item of these rows met each other in a window that one of them was fresh to, float32, (B, N).

        Costs O(window * E), where the matrix product of all histories would cost as much as the square of the longest.
        """
        users, items = self.interactions.users, self.interactions.items
        total = sp.csr_matrix((stop - start, self.interactions.item_count), dtype=np.float32)
        pairs: list[IntArray] = []
        for distance in range(1, min(self.window, len(items) - 1) + 1):
            # Of an item that is in a window twice only the last counts: its next place lies past the fresh one.
            met = (users[distance:] == users[:-distance]) & self.fresh[distance:]
            met &= self.next_same[:-distance] > np.arange(distance, len(items))
            earlier, later = items[:-distance][met], items[distance:][met]
            for mine, other in ((earlier, later), (later, earlier)):
                here = (mine >= start) & (mine < stop)
                pairs.append(np.stack([mine[here] - start, other[here]]))
            if sum(part.shape[1] for part in pairs) > _PAIRS:
                total, pairs = total + self._counted(pairs, total.shape), []
        return total + self._counted(pairs, total.shape) if pairs else total

    @staticmethod
    def _counted(pairs: list[IntArray], shape: tuple[int, int]) -> sp.csr_matrix:
        rows, columns = np.concatenate(pairs, axis=1)
        return sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
