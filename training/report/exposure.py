"""What lists show, whatever their users do: how much of the catalogue, how unexpected, how evenly, how varied.

Shapes: U users, K places of a list, N items, D dimensions. A list's empty places are -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.metrics import Estimate, coverage, estimates

IntArray: TypeAlias = NDArray[np.int64]
Vectors: TypeAlias = NDArray[np.float32]

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one contender shows."""

    coverage: Estimate
    novelty: Estimate
    """Bits."""
    gini: float
    diversity: Estimate | None
    """None where items have no vectors, or no list has two of them."""

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers by name."""
        return {
            "coverage": self.coverage.to_json(),
            "novelty": self.novelty.to_json(),
            "gini": self.gini,
            "diversity": None if self.diversity is None else self.diversity.to_json(),
        }


def exposure(tops: IntArray, counts: IntArray, vectors: Vectors | None) -> Exposure:
    """Returns the exposure of lists (U, K), U > 0.

    Args:
        tops: (U, K).
        counts: (N,), fitted interactions of each item.
        vectors: float32, (N, D), unit rows, zeros for an item without one; None where there are none.
    """
    shown = np.bincount(tops[tops >= 0], minlength=len(counts))
    bits = novelty(tops, counts)
    (mean_bits,) = estimates(bits[:, None])
    varied = intra_list_diversity(tops, vectors) if vectors is not None else np.zeros(0)
    varied = varied[~np.isnan(varied)]
    return Exposure(
        coverage=coverage(tops, len(counts)),
        novelty=mean_bits,
        gini=gini(shown),
        diversity=estimates(varied[:, None])[0] if len(varied) else None,
    )


def novelty(tops: IntArray, counts: IntArray) -> NDArray[np.float64]:
    """Returns the mean self-information of each list in bits, (U,); 0 for an empty list.

    An item's probability is its share of interactions, one added to each item so that an unseen one is finite.

    Source: T. Zhou et al., Solving the apparent diversity-accuracy dilemma of recommender systems, PNAS 107 (2010).
    """
    bits = -np.log2((counts + 1) / (counts.sum() + len(counts)))  # (N,)
    listed = tops >= 0
    return np.asarray(np.where(listed, bits[tops], 0).sum(axis=1) / np.maximum(listed.sum(axis=1), 1), np.float64)


def gini(shown: IntArray) -> float:
    """Returns the Gini coefficient of how often each item is shown, (N,): 0 if all alike or nothing is shown, (N - 1) / N if only one."""
    total = int(shown.sum())
    if total == 0:
        return 0.0
    ascending = np.sort(shown)
    places = np.arange(1, len(shown) + 1)
    return float(((2 * places - len(shown) - 1) * ascending).sum() / (len(shown) * total))


def intra_list_diversity(tops: IntArray, vectors: Vectors) -> NDArray[np.float64]:
    """Returns the mean of 1 - cosine over the pairs of each list, (U,); NaN for a list with fewer than two items that have a vector.

    Source: C.-N. Ziegler et al., Improving Recommendation Lists Through Topic Diversification, WWW 2005.
    """
    known = (tops >= 0) & vectors.any(axis=1)[tops]
    result = np.empty(len(tops))
    for at in range(0, len(tops), _BLOCK):
        some = known[at : at + _BLOCK]
        held = some.sum(axis=1)
        sums = (vectors[tops[at : at + _BLOCK]] * some[:, :, None]).sum(axis=1, dtype=np.float64)  # (B, D)
        # Of unit vectors, the squared length of the sum is the number of them plus twice the cosines of all pairs.
        cosines = (sums**2).sum(axis=1) - held
        result[at : at + _BLOCK] = np.where(held > 1, 1 - cosines / np.maximum(held * (held - 1), 1), np.nan)
    return result
