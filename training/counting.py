"""Counts for the sparse item-to-item source: directed transitions and users in common.

Shapes: E interactions, U users, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from server.retrieval.sources import TRANSITION_WINDOW, CsrCounts
from training.data import Interactions

FloatArray: TypeAlias = NDArray[np.float32]

NEIGHBOURS = 500
"""Entries kept in a row: bounds memory at 500 * N * 8 bytes each, and the tail says little."""

_BLOCK = 2048
"""Item rows multiplied at once: bounds memory where items have many users in common."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the sparse source is made of."""

    transitions: CsrCounts
    together: CsrCounts
    mass: FloatArray
    """(N,): row sums of the transitions before pruning."""
    users: FloatArray
    """(N,): users who have the item."""


def count(interactions: Interactions, *, neighbours: int = NEIGHBOURS) -> Counts:
    """Returns the counts of all interactions whose action says anything about taste."""
    wanted = interactions if (interactions.weights > 0).all() else interactions.select(interactions.weights > 0)
    transitions = _transitions(wanted)
    held = user_items(wanted)
    users = np.asarray(held.sum(axis=0), np.float32).ravel()
    mass = np.asarray(transitions.sum(axis=1), np.float32).ravel()
    blocks = []
    columns = held.tocsc()
    for start in range(0, held.shape[1], _BLOCK):
        block = (columns[:, start : start + _BLOCK].T @ held).tocsr()  # (block, N)
        block = _without_diagonal(block, start)
        blocks.append(_pruned(block, 1 / np.sqrt(np.maximum(users, 1)), neighbours))
    together = sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix((0, 0), dtype=np.float32)
    return Counts(_as_counts(_pruned(transitions, None, neighbours)), _as_counts(together), mass, users)


def user_items(interactions: Interactions) -> sp.csr_matrix:
    """Returns who has what: float32, (U, N), 1 where the user has touched the item."""
    shape = (interactions.user_count, interactions.item_count)
    held = sp.csr_matrix((np.ones(len(interactions.users), np.float32), (interactions.users, interactions.items)), shape=shape)
    held.data[:] = 1
    return held


def _transitions(interactions: Interactions) -> sp.csr_matrix:
    users, items = interactions.users, interactions.items
    rows, columns, values = [], [], []
    for distance in range(1, TRANSITION_WINDOW + 1):
        same = (users[distance:] == users[:-distance]) & (items[distance:] != items[:-distance])
        rows.append(items[:-distance][same])
        columns.append(items[distance:][same])
        values.append(np.full(int(same.sum()), 1 / distance, np.float32))
    shape = (interactions.item_count, interactions.item_count)
    return sp.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)


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
