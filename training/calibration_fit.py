"""From a score to what it is worth: a rising line of few pieces, fitted on cases that fitted nothing else.

The probability of a candidate is its share in the sum over all of its case.

Shapes: C scores, K knots, S cases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]

_BINS_OF_OUTCOMES = 32
_BINS_OF_SCORES = 16
_ROUNDS = 5
"""After which values change by less than what a hundred more cases would change."""

_PRIOR = 1.0
"""Outcomes added to a bin at the overall rate, so that a bin without any is improbable, not impossible."""


class Reliability(NamedTuple):
    """What was foretold and what came, for a reliability diagram."""

    probabilities: FloatArray
    """float32, (C,)."""
    outcomes: BoolArray
    """(C,): whether the user's next goal event was on the candidate."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A continuous, never falling, piecewise linear function, constant outside its knots."""

    knots: FloatArray
    """float32, (K,), rising; K >= 1."""
    values: FloatArray
    """float32, (K,), never falling, in [0, 1] once fitted."""

    def of(self, scores: FloatArray) -> FloatArray:
        """Returns the value of each score, float32, shaped like them."""
        return np.interp(scores, self.knots, self.values).astype(np.float32)


UNKNOWN = Calibration(np.zeros(1, np.float32), np.zeros(1, np.float32))
"""Where no case says how often anything is chosen: 0 for everything."""


def fit_calibration(scores: FloatArray, outcomes: BoolArray, counts: FloatArray) -> Calibration:
    """Returns the rising values by whose shares in each case what was chosen is likeliest, through at most 48 knots.

    In each round a candidate counts the less the more its whole case is worth; isotonic regression of outcomes follows.

    Args:
        scores: float32, (S, C), finite.
        outcomes: (S, C).
        counts: float32, (S, C): how many candidates each stands for; 0 leaves one out.

    Source: D. R. Hunter, MM Algorithms for Generalized Bradley-Terry Models, Annals of Statistics 32 (2004); for the regression,
    B. Zadrozny and C. Elkan, Transforming Classifier Scores into Accurate Multiclass Probability Estimates, KDD 2002.
    """
    outcomes = outcomes & (counts > 0)
    if not outcomes.any():
        return UNKNOWN
    chosen = outcomes.sum(axis=1, keepdims=True)  # (S, 1): each of several was chosen among all
    weights, here = counts * chosen, counts > 0
    found = UNKNOWN
    for _ in range(_ROUNDS):
        found = _isotonic(scores[here], outcomes[here], weights[here])
        total = (counts * found.of(scores)).sum(axis=1, keepdims=True)
        weights = counts * chosen / total
    return Calibration(found.knots, found.values / np.maximum(found.values.max(), 1))


def _isotonic(scores: FloatArray, outcomes: BoolArray, weights: FloatArray) -> Calibration:
    """Returns isotonic regression of outcomes, at least one, on scores, all (C,).

    Bins end at quantiles of the chosen scores and of all: the few good scores must be told apart, and so must the many poor ones.
    """
    order = np.argsort(scores, kind="stable")
    sorted_scores, sorted_outcomes, sorted_weights = scores[order].astype(np.float64), outcomes[order], weights[order].astype(np.float64)
    halves = ((sorted_scores[sorted_outcomes], _BINS_OF_OUTCOMES), (sorted_scores, _BINS_OF_SCORES))
    cuts = np.concatenate([np.quantile(values, np.linspace(0, 1, bins)[1:-1]) for values, bins in halves])
    bins = np.searchsorted(np.unique(cuts), sorted_scores, side="right")
    count = np.bincount(bins, sorted_weights)
    kept = count > 0
    count = count[kept]
    middle = np.bincount(bins, sorted_scores * sorted_weights)[kept] / count
    hits = np.bincount(bins, sorted_outcomes)[kept]
    rate = outcomes.sum() / weights.sum()
    level = (hits + _PRIOR * rate) / (count + _PRIOR)
    values = isotonic_regression(level, weights=count).x
    return Calibration(middle.astype(np.float32), values.astype(np.float32))
