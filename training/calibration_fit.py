"""From a score to a probability: a rising line of few pieces, fitted on cases that fitted nothing else.

Shapes: C scores, K knots.
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
    """float32, (K,), never falling, in [0, 1]."""

    def of(self, scores: FloatArray) -> FloatArray:
        """Returns the probability of each score, float32, (C,)."""
        return np.interp(scores, self.knots, self.values).astype(np.float32)


UNKNOWN = Calibration(np.zeros(1, np.float32), np.zeros(1, np.float32))
"""Where no case says how often anything is chosen: 0 for everything."""


def fit_calibration(scores: FloatArray, outcomes: BoolArray) -> Calibration:
    """Returns isotonic regression of outcomes on scores, through at most 48 knots.

    Bins end at quantiles of the chosen scores and of all: the few good scores must be told apart, and so must the many poor ones.

    Args:
        scores: float32, (C,), finite.
        outcomes: (C,).

    Source: B. Zadrozny and C. Elkan, Transforming Classifier Scores into Accurate Multiclass Probability Estimates, KDD 2002.
    """
    if not outcomes.any():
        return UNKNOWN
    order = np.argsort(scores, kind="stable")
    sorted_scores, sorted_outcomes = scores[order].astype(np.float64), outcomes[order]
    halves = ((sorted_scores[sorted_outcomes], _BINS_OF_OUTCOMES), (sorted_scores, _BINS_OF_SCORES))
    cuts = np.concatenate([np.quantile(values, np.linspace(0, 1, bins)[1:-1]) for values, bins in halves])
    bins = np.searchsorted(np.unique(cuts), sorted_scores, side="right")
    count = np.bincount(bins).astype(np.float64)
    kept = count > 0
    count = count[kept]
    middle = np.bincount(bins, sorted_scores)[kept] / count
    hits = np.bincount(bins, sorted_outcomes)[kept]
    rate = float(outcomes.mean())
    level = (hits + _PRIOR * rate) / (count + _PRIOR)
    values = isotonic_regression(level, weights=count).x
    return Calibration(middle.astype(np.float32), np.clip(values, 0, 1).astype(np.float32))
