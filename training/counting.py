"""Counts for the sparse item-to-item source: directed transitions and users in common, by the rule that `SparseSource` states.

Shapes: E interactions, U users, N items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from server.domain.profiles import HISTORY_LIMIT
from server.retrieval.pair_counts import NEIGHBOURS
from server.retrieval.sources import TRANSITION_WINDOW, CsrCounts
from training.data import Interactions
from training.windows import Windows

FloatArray: TypeAlias = NDArray[np.float32]

_PRODUCTS = 16_000_000
"""Pairs of an item and an interaction of one of its users in a block of rows: bounds memory, and the number of blocks, which each cost
a pass over all interactions of long histories."""

_UNIT = math.lcm(*range(1, TRANSITION_WINDOW + 1))
"""Parts of which every 1/d is a whole number, so that sums are exact in any order."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the sparse source is made of."""

    transitions: CsrCounts
    together: CsrCounts
    mass: FloatArray
    """(N,): row sums of the transitions before pruning."""
    users: FloatArray
    """(N,): users who have the item; who comes back to it more than `HISTORY_LIMIT` interactions later counts again."""


class Part:
    """What some users say of the counts, unpruned. Parts of all users add up to exactly what counting everything at once gives.

    Args:
        interactions: Of these users; those whose weight is 0 are left out.
    """

    def __init__(self, interactions: Interactions) -> None:
        wanted = interactions if (interactions.weights > 0).all() else interactions.select(interactions.weights > 0)
        self._interactions = wanted
        self._windows, whole = Windows.split(wanted, HISTORY_LIMIT)
        self._held = user_items(whole)
        self._columns = self._held.tocsc()

    def users(self) -> FloatArray:
        """Returns the users of each item as `Counts.users` does, float32, (N,)."""
        return np.asarray(self._held.sum(axis=0), np.float32).ravel() + self._windows.users()

    def costs(self) -> NDArray[np.int64]:
        """Returns the products that each item's row of `together` takes, (N,)."""
        lengths = np.diff(self._held.indptr).astype(np.int64)
        windows = np.bincount(self._windows.interactions.items, minlength=self._held.shape[1]) * (2 * HISTORY_LIMIT)
        return np.asarray(self._columns.astype(np.int64).T @ lengths + windows, np.int64)

    def transitions(self) -> sp.csr_matrix:
        """Returns the directed transitions in `_UNIT`ths, int32, (N, N)."""
        users, items = self._interactions.users, self._interactions.items
        rows, columns, values = [], [], []
        for distance in range(1, TRANSITION_WINDOW + 1):
            same = (users[distance:] == users[:-distance]) & (items[distance:] != items[:-distance])
            rows.append(items[:-distance][same])
            columns.append(items[distance:][same])
            values.append(np.full(int(same.sum()), _UNIT // distance, np.int32))
        shape = (self._held.shape[1], self._held.shape[1])
        return sp.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)

    def together(self, start: int, stop: int) -> sp.csr_matrix:
        """Returns the users in common of the items from `start` to `stop` with all others, float32, (stop - start, N)."""
        block = (self._columns[:, start:stop].T @ self._held).tocsr()
        return _without_diagonal(block + self._windows.together(start, stop), start)


def count(interactions: Interactions, *, neighbours: int = NEIGHBOURS) -> Counts:
    """Returns the counts of all interactions whose action says anything about taste."""
    part = Part(interactions)
    users = part.users()
    rows = [pruned_together(part.together(start, stop), users, neighbours) for start, stop in blocks(part.costs())]
    return assemble(part.transitions(), users, rows, neighbours=neighbours)


def assemble(transitions: sp.csr_matrix, users: FloatArray, together: Sequence[sp.csr_matrix], *, neighbours: int = NEIGHBOURS) -> Counts:
    """Returns the counts of all parts.

    Args:
        transitions: Sum of `Part.transitions`.
        users: Sum of `Part.users`.
        together: From `pruned_together`, in the order of `blocks`.
        neighbours: Transitions that a row keeps.
    """
    mass = np.asarray(transitions.sum(axis=1), np.float64).ravel() / _UNIT
    chances = transitions.astype(np.float32)
    chances.data /= _UNIT
    common = sp.vstack(together, format="csr") if together else sp.csr_matrix((0, 0), dtype=np.float32)
    return Counts(_as_counts(_pruned(chances, None, neighbours)), _as_counts(common), mass.astype(np.float32), users)


def pruned_together(block: sp.csr_matrix, users: FloatArray, neighbours: int = NEIGHBOURS) -> sp.csr_matrix:
    """Returns rows of users in common with the best of each, by cosine."""
    return _pruned(block, 1 / np.sqrt(np.maximum(users, 1)), neighbours)


def blocks(costs: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Returns first and past-the-last rows of blocks that take about `_PRODUCTS` each; a dearer row comes alone."""
    if not len(costs):
        return []
    numbers = np.cumsum(costs) // _PRODUCTS
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(costs)]
    return list(pairwise(cuts))


def user_items(interactions: Interactions) -> sp.csr_matrix:
    """Returns who has what: float32, (U, N), 1 where the user has touched the item."""
    shape = (interactions.user_count, interactions.item_count)
    held = sp.csr_matrix((np.ones(len(interactions.users), np.float32), (interactions.users, interactions.items)), shape=shape)
    held.data[:] = 1
    return held


def _without_diagonal(block: sp.csr_matrix, start: int) -> sp.csr_matrix:
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    block.data[block.indices == rows + start] = 0
    block.eliminate_zeros()
    return block


def _pruned(matrix: sp.csr_matrix, column_scale: FloatArray | None, neighbours: int) -> sp.csr_matrix:
    """Returns the matrix with the largest entries of each row, judged after scaling columns, ties by column."""
    lengths = np.diff(matrix.indptr)
    if lengths.max(initial=0) <= neighbours:
        return matrix
    rows = np.repeat(np.arange(matrix.shape[0]), lengths)
    worth = matrix.data if column_scale is None else matrix.data * column_scale[matrix.indices]
    order = np.lexsort((matrix.indices, -worth, rows))
    place = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], lengths)
    keep = np.sort(order[place < neighbours])
    return sp.csr_matrix((matrix.data[keep], (rows[keep], matrix.indices[keep])), shape=matrix.shape)


def _as_counts(matrix: sp.csr_matrix) -> CsrCounts:
    matrix.sort_indices()
    return CsrCounts(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32))
