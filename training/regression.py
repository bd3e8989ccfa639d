"""Item-to-item weights by regression: what having one item says of having another, beyond what the other items had say already.

The weights solve a ridge regression of every item on all others, in closed form. Cosines count two items as alike that only share a third;
the regression does not, and tells by negative weights what does not go together. Each item's ridge grows with its users, as if half of a
user's items were withheld at random: that keeps popular items from explaining everything.

Shapes: U users, N items, H items of the head.

Source: H. Steck, Autoencoders that don't overfit towards the Identity, NeurIPS 2020; the closed form is that of EASE, WWW 2019.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

from server.retrieval.sources import CsrCounts

FloatArray: TypeAlias = NDArray[np.float32]

HEAD = 12_000
"""Items that take part, those with most users: an H x H inverse takes 4 H^2 bytes, 0.6 GB, and some 15 s on two cores. Beyond the head
items have few users, and cosines say as much."""

KEPT = 300
"""Weights kept in a row, the largest of either sign: more changed nothing, all of them ranked worse."""

_RIDGE = 100.0
_WITHHELD = 1.0
"""p / (1 - p) for the share p of items withheld."""

_BLOCK = 1024


def fit_regression(held: sp.csr_matrix, *, head: int = HEAD, kept: int = KEPT) -> CsrCounts:
    """Returns the weights of the items with most users on each other, float32, (N, N), at most `kept` in a row.

    Args:
        held: float32, (U, N), 1 where the user has the item.
        head: Items that take part.
        kept: Weights of a row.
    """
    users = np.asarray(held.sum(axis=0), np.float32).ravel()
    rows = np.sort(np.argsort(-users, kind="stable")[:head])
    rows = rows[users[rows] > 0]
    if not len(rows):
        return CsrCounts.empty(held.shape[1])
    weights = _inverse(_gram(held[:, rows].tocsr()), users[rows])
    blocks = [_largest(weights, start, min(start + _BLOCK, len(rows)), kept) for start in range(0, len(rows), _BLOCK)]
    return _spread(sp.vstack(blocks, format="csr"), rows, held.shape[1])


def _gram(held: sp.csr_matrix) -> FloatArray:
    """Returns users in common, (H, H), with a block of rows in sparse form at a time."""
    columns = held.tocsc()
    gram = np.empty((held.shape[1], held.shape[1]), np.float32)
    for start in range(0, len(gram), _BLOCK):
        gram[start : start + _BLOCK] = (columns[:, start : start + _BLOCK].T @ held).toarray()
    return gram


def _inverse(gram: FloatArray, users: FloatArray) -> FloatArray:
    """Returns the lower triangle of the inverse of the penalised Gram matrix, in its place."""
    gram[np.diag_indices_from(gram)] += _RIDGE + np.float32(_WITHHELD) * users
    factor, failed = lapack.spotrf(gram.T, lower=True, overwrite_a=True, clean=False)
    inverse, singular = lapack.spotri(factor, lower=True, overwrite_c=True)
    if failed or singular:  # the ridge makes the matrix positive definite, so only numbers that are none can
        raise ArithmeticError("the items' Gram matrix has no inverse")
    return np.asarray(inverse, np.float32)


def _largest(inverse: FloatArray, start: int, stop: int, kept: int) -> sp.csr_matrix:
    """Returns the largest weights of the rows from `start` to `stop`: -P_ij / P_jj, none of an item on itself."""
    block = np.empty((stop - start, len(inverse)), np.float32)
    block[:, :start] = inverse[start:stop, :start]
    block[:, stop:] = inverse[stop:, start:stop].T
    own = np.tril(inverse[start:stop, start:stop])
    block[:, start:stop] = own + np.tril(own, -1).T
    block /= -np.diag(inverse)[None, :]
    block[np.arange(stop - start), np.arange(start, stop)] = 0
    if kept < block.shape[1]:
        smaller = np.argpartition(-np.abs(block), kept, axis=1)[:, kept:]
        np.put_along_axis(block, smaller, 0, axis=1)
    return sp.csr_matrix(block)


def _spread(weights: sp.csr_matrix, rows: NDArray[np.int64], items: int) -> CsrCounts:
    """Returns the head's weights at the rows that the items have among all, (N, N)."""
    lengths = np.zeros(items, np.int64)
    lengths[rows] = np.diff(weights.indptr)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return CsrCounts(indptr, rows[weights.indices].astype(np.int32), weights.data.astype(np.float32))
