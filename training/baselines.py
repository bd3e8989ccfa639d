"""What every result is printed beside: popularity, item-kNN and EASE on the same split.

Shapes: B users, N items. Each baseline gives scores of all items, float32, (B, N), for users by row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

from training.counting import user_items
from training.data import Interactions

FloatArray: TypeAlias = NDArray[np.float32]
Baseline: TypeAlias = Callable[[NDArray[np.int64]], FloatArray]

KNN_DECAY = 0.7
EASE_RIDGE = 200.0
EASE_LARGEST = 30_000
"""Items past which EASE's dense N x N inverse is not attempted unless asked for: 30,000 take 7 GiB and minutes."""


def popularity(interactions: Interactions) -> Baseline:
    """Returns the number of users who have the item."""
    counts = np.asarray(user_items(interactions).sum(axis=0), np.float32)  # (1, N)
    return lambda users: np.repeat(counts, len(users), axis=0)


def item_knn(interactions: Interactions) -> Baseline:
    """Returns cosine neighbours of the history, each weighted 0.7 ** steps before the newest; all neighbours are kept.

    Source: B. Sarwar et al., Item-based collaborative filtering, WWW 2001; recency as in D. Jannach et al., sequence-aware kNN.
    """
    held = user_items(interactions)
    lengths = np.sqrt(np.maximum(np.asarray(held.sum(axis=0)).ravel(), 1)).astype(np.float32)
    normed = (held @ sp.diags(1 / lengths)).tocsr()
    ages = interactions.starts[interactions.users + 1] - 1 - np.arange(len(interactions.users))
    recent = sp.csr_matrix(
        ((KNN_DECAY**ages).astype(np.float32), (interactions.users, interactions.items)),
        shape=(interactions.user_count, interactions.item_count),
    )
    similar = (normed.T @ normed).tocsr()
    similar.setdiag(0)
    return lambda users: np.asarray((recent[users] @ similar).toarray(), np.float32)


def ease(interactions: Interactions) -> Baseline:
    """Returns EASE with ridge 200 on the whole history.

    Source: H. Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019.
    """
    held = user_items(interactions)
    gram = np.asarray((held.T @ held).toarray(), np.float32)
    gram[np.diag_indices_from(gram)] += EASE_RIDGE
    # The inverse in place from the Cholesky factor: a third of the time of solving for the identity, and no second array.
    factor, _ = lapack.spotrf(gram.T, lower=True, overwrite_a=True, clean=False)
    weights, _ = lapack.spotri(factor, lower=True, overwrite_c=True)
    _mirror(weights)
    weights /= -np.diag(weights)[None, :].copy()
    np.fill_diagonal(weights, 0)
    return lambda users: np.asarray(held[users] @ weights, np.float32)


def _mirror(matrix: FloatArray) -> None:
    """Copies the lower triangle to the upper, in blocks that fit the cache."""
    for start in range(0, len(matrix), 1024):
        stop = start + 1024
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
        block = matrix[start:stop, start:stop]
        block[:] = np.tril(block) + np.tril(block, -1).T
