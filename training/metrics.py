"""Full-rank metrics, exact, with bootstrap intervals.

Shapes: B users, N items, M metrics. Rank 0 is the best item. Equal scores are ordered by item row, which is id order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidFieldError

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

_METRIC = re.compile(r"(hr|recall|ndcg|coverage)@([1-9]\d{0,3})|mrr")
DEFAULT_METRICS = ("hr@10", "ndcg@10")
_RESAMPLES = 1000
_UNRANKED = np.iinfo(np.int64).max
"""Rank of a target that is masked or unknown: a miss at every K."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: `kind` is hr, recall, ndcg, mrr or coverage; `k` is 0 for mrr."""

    kind: str
    k: int

    @property
    def name(self) -> str:
        """As it is written: `ndcg@10`."""
        return f"{self.kind}@{self.k}" if self.k else self.kind


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over users and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Returns the three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}


def parse_metrics(text: str) -> tuple[Metric, ...]:
    """Returns the metrics of a list such as `ndcg@10,recall@20,mrr`.

    Raises:
        InvalidFieldError: A metric is not offered.
    """
    metrics = []
    for name in text.lower().replace(" ", "").split(","):
        match = _METRIC.fullmatch(name)
        if match is None:
            raise InvalidFieldError(
                "metrics", f"{name!r} is not offered; use hr@K, recall@K, ndcg@K, mrr or coverage@K with K from 1 to 9999"
            )
        metrics.append(Metric(match.group(1) or "mrr", int(match.group(2) or 0)))
    return tuple(dict.fromkeys(metrics))


def target_ranks(scores: FloatArray, masked: Sequence[IntArray], targets: Sequence[IntArray]) -> list[IntArray]:
    """Returns the ranks of each user's targets among the items that are not masked, in the targets' order.

    Args:
        scores: float32, (B, N). Masked places are overwritten with -inf.
        masked: B arrays of item rows that are not ranked. A target among them is a miss.
        targets: B arrays of item rows; -1 is an item that cannot be ranked, a miss.
    """
    ranks = []
    for row, (hidden, wanted) in enumerate(zip(masked, targets, strict=True)):
        line = scores[row]
        line[hidden] = -np.inf
        found = np.full(len(wanted), _UNRANKED, np.int64)
        for place, target in enumerate(wanted.tolist()):
            if target >= 0 and line[target] > -np.inf:
                value = line[target]
                found[place] = np.count_nonzero(line > value) + np.count_nonzero(line[:target] == value)
        ranks.append(found)
    return ranks


def top_items(scores: FloatArray, k: int) -> IntArray:
    """Returns the rows of the k best items of each user, (B, k), best first; -1 where fewer than k are ranked."""
    width = min(k, scores.shape[1])
    result = np.full((len(scores), k), -1, np.int64)
    least = np.partition(scores, scores.shape[1] - width, axis=1)[:, scores.shape[1] - width]
    for row, line in enumerate(scores):
        places = np.flatnonzero((line >= least[row]) & (line > -np.inf))
        best = places[np.lexsort((places, -line[places]))][:k]
        result[row, : len(best)] = best
    return result


def user_values(ranks: IntArray, metrics: Sequence[Metric]) -> list[float]:
    """Returns each metric of one user from the ranks of the targets; 0 for coverage, which is no mean over users.

    NDCG's ideal has every target on top, at most K of them. MRR is of the best-ranked target.
    """
    return [_user_value(ranks, metric) for metric in metrics]


def _user_value(ranks: IntArray, metric: Metric) -> float:
    if metric.kind == "mrr":
        best = int(ranks.min(initial=_UNRANKED))
        return 0.0 if best == _UNRANKED else 1.0 / (best + 1)
    hits = ranks[ranks < metric.k] if metric.kind != "coverage" else ranks[:0]
    if metric.kind == "hr":
        return float(len(hits) > 0)
    if metric.kind == "recall":
        return len(hits) / len(ranks) if len(ranks) else 0.0
    if metric.kind == "ndcg":
        ideal = float((1 / np.log2(np.arange(min(len(ranks), metric.k)) + 2)).sum())
        return float((1 / np.log2(hits + 2)).sum()) / ideal if ideal else 0.0
    return 0.0


def estimates(values: NDArray[np.float64], *, seed: int = 0) -> list[Estimate]:
    """Returns means and 95 % percentile bootstrap intervals over users, for values (users, M).

    Source: B. Efron, R. J. Tibshirani, An Introduction to the Bootstrap (1993), section 13.3; 1,000 resamples.
    """
    generator = np.random.default_rng(seed)
    users = len(values)
    shares = np.full(users, 1 / users)
    means = np.stack([generator.multinomial(users, shares) @ values for _ in range(_RESAMPLES)]) / users  # (1000, M)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return [Estimate(float(m), float(a), float(b)) for m, a, b in zip(values.mean(axis=0), low, high, strict=True)]


def is_better(difference: NDArray[np.float64]) -> bool:
    """Returns whether a mean gain, of the difference in each case, (S,), exceeds its standard error: few cases change nothing.

    Source: the one-standard-error rule of L. Breiman et al., Classification and Regression Trees (1984), section 3.4.3.
    """
    mean = float(difference.mean())
    return mean > 0 and mean > float(difference.std()) / np.sqrt(len(difference))


def coverage(tops: IntArray, items: int, *, seed: int = 0) -> Estimate:
    """Returns the share of items that appear in some user's list, (users, K); interval over 200 resamples of users."""
    generator = np.random.default_rng(seed)

    def share(lists: IntArray) -> float:
        shown = np.unique(lists)
        return np.count_nonzero(shown >= 0) / max(items, 1)

    resampled = [share(tops[generator.integers(0, len(tops), len(tops))]) for _ in range(200)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(share(tops), float(low), float(high))
