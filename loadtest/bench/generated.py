"""Generated catalogues whose vectors lie as trained ones do.

Four views of 384 numbers. Items gather in clusters of about fifty, fewer than a search returns, so that a list cuts through many; popular
clusters are larger, by Zipf's law. Each view has few directions that matter (48, of falling weight) and noise in all, its own geometry, and
puts one item in five into another cluster than the other views do. Users have met nine items of three clusters.

Shapes: N items, D = 1536 numbers, B queries.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from server.domain.ranking import VIEW_DIMENSIONS, VIEWS

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_IN_A_CLUSTER = 50
_LATENT = 48
_SPREAD = 0.5
_NOISE = 0.02
_STRAYS = 0.2
_BLOCK = 10_000


class Generated:
    """N vectors that are made when they are asked for, and are the same each time. Holds some 2 kB a cluster.

    Args:
        count: N.
        seed: Of everything.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        clusters = max(20, count // _IN_A_CLUSTER)
        weights = 1 / (1 + np.arange(clusters)) ** 0.7
        self._weights = weights / weights.sum()
        self.count, self._seed, self.clusters = count, seed, clusters
        self.cluster_of: IntArray = rng.choice(clusters, count, p=self._weights)
        shared = rng.standard_normal((clusters, _LATENT), np.float32)
        falling = 1 / np.sqrt(1 + np.arange(_LATENT) / 4)
        self._centres = [0.6 * shared + 0.8 * shared[rng.permutation(clusters)] for _ in VIEWS]
        self._mixing = [
            (rng.standard_normal((_LATENT, VIEW_DIMENSIONS)) * falling[:, None] / np.sqrt(VIEW_DIMENSIONS)).astype(np.float32)
            for _ in VIEWS
        ]

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """Yields the number of a block's first item, and its vectors, (at most 10000, D)."""
        for first in range(0, self.count, _BLOCK):
            yield first, self._vectors(np.arange(first, min(first + _BLOCK, self.count)), first)

    def queries(self, count: int, seed: int) -> FloatArray:
        """Returns users' vectors, (B, D): means of nine items, three of each of three clusters."""
        rng = np.random.default_rng([self._seed, seed])
        order = np.argsort(self.cluster_of, kind="stable")
        starts = np.searchsorted(self.cluster_of[order], np.arange(self.clusters + 1))
        met = []
        for _ in range(count):
            liked = [one for one in rng.choice(self.clusters, 12, p=self._weights) if starts[one] < starts[one + 1]][:3]
            rows = np.concatenate([order[rng.integers(starts[one], starts[one + 1], 3)] for one in liked])
            met.append(self._vectors(rows, int(rng.integers(1 << 30))).mean(axis=0))
        return np.stack(met)

    def _vectors(self, rows: IntArray, seed: int) -> FloatArray:
        rng = np.random.default_rng([self._seed, seed])
        views = []
        for centres, mixing in zip(self._centres, self._mixing, strict=True):
            strays = rng.random(len(rows)) < _STRAYS
            cluster = np.where(strays, rng.choice(self.clusters, len(rows), p=self._weights), self.cluster_of[rows])
            view = (centres[cluster] + _SPREAD * rng.standard_normal((len(rows), _LATENT), np.float32)) @ mixing
            view += _NOISE * np.linalg.norm(view, axis=1, keepdims=True) * rng.standard_normal(view.shape, np.float32)
            views.append(view / np.linalg.norm(view, axis=1, keepdims=True))
        return np.concatenate(views, axis=1)
