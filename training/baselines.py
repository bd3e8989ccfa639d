"""What every result is printed beside: popularity, item-kNN and EASE on the same split; TF-IDF for items nobody knows.

Shapes: B users, N items. Each baseline gives scores of all items, float32, (B, N), for users by row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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


def item_knn(interactions: Interactions, histories: Interactions | None = None) -> Baseline:
    """Returns cosine neighbours of the history, each weighted 0.7 ** steps before the newest; all neighbours are kept.

    Args:
        interactions: What cosines are counted from.
        histories: Of the same users and items, whose neighbours are asked for; None takes `interactions`.

    Source: B. Sarwar et al., Item-based collaborative filtering, WWW 2001; recency as in D. Jannach et al., sequence-aware kNN.
    """
    similar = cosines(interactions)
    recent = recency(histories if histories is not None else interactions)
    return lambda users: np.asarray((recent[users] @ similar).toarray(), np.float32)


def cosines(interactions: Interactions) -> sp.csr_matrix:
    """Returns the cosine of the users of each two items, float32, (N, N), 0 of an item with itself."""
    held = user_items(interactions)
    lengths = np.sqrt(np.maximum(np.asarray(held.sum(axis=0)).ravel(), 1)).astype(np.float32)
    normed = (held @ sp.diags(1 / lengths)).tocsr()
    similar = (normed.T @ normed).tocsr()
    similar.setdiag(0)
    return similar


def recency(histories: Interactions) -> sp.csr_matrix:
    """Returns 0.7 ** steps before the newest of each user and item, float32, (U, N); an item had twice has the sum."""
    ages = histories.starts[histories.users + 1] - 1 - np.arange(len(histories.users))
    weights = (KNN_DECAY**ages).astype(np.float32)
    return sp.csr_matrix((weights, (histories.users, histories.items)), shape=(histories.user_count, histories.item_count))


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


def tfidf(texts: Sequence[str]) -> sp.csr_matrix:
    """Returns TF-IDF vectors of the words of all texts, float32, (N, words), unit rows: counts times ln((1 + N) / (1 + texts)) + 1.

    Source: G. Salton, C. Buckley, Term-weighting approaches in automatic text retrieval, IPM 24 (1988).
    """
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    place = {word: number for number, word in enumerate(sorted({word for some in words for word in some}))}
    indptr = np.cumsum([0, *map(len, words)])
    indices = np.fromiter((place[word] for some in words for word in some), np.int64, indptr[-1])
    counts = sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(texts), len(place)))
    counts.sum_duplicates()
    idf = np.log((1 + len(texts)) / (1 + np.bincount(counts.indices, minlength=len(place)))) + 1
    weighted = counts @ sp.diags(idf.astype(np.float32))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1))).ravel()
    return (sp.diags((1 / np.maximum(lengths, 1e-9)).astype(np.float32)) @ weighted).tocsr()


def _mirror(matrix: FloatArray) -> None:
    """Copies the lower triangle to the upper, in blocks that fit the cache."""
    for start in range(0, len(matrix), 1024):
        stop = start + 1024
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T
        block = matrix[start:stop, start:stop]
        block[:] = np.tril(block) + np.tril(block, -1).T
