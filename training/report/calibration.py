"""Whether probabilities come true.

Shapes: C forecasts, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidFieldError

BINS = 15


@dataclass(frozen=True, slots=True)
class Bin:
    """Forecasts of about the same probability."""

    count: int
    forecast: float
    """Mean probability."""
    outcome: float
    """Share that came true."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A reliability diagram and its summary."""

    count: int
    rate: float
    """Share of all that came true."""
    error: float
    """Expected calibration error, in [0, 1]."""
    brier: float
    """Mean squared difference of probability and outcome."""
    bins: tuple[Bin, ...]
    """Ascending; none is empty."""

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers by name."""
        bins = [{"count": one.count, "forecast": one.forecast, "outcome": one.outcome} for one in self.bins]
        return {"count": self.count, "rate": self.rate, "ece": self.error, "brier": self.brier, "bins": bins}


Forecasts: TypeAlias = tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]
"""Probabilities and whether each came true, both (C,)."""


def calibration(forecasts: Forecasts, *, bins: int = BINS) -> Calibration:
    """Returns the reliability of forecasts in bins of equal count; equal probabilities share a bin.

    Bins of equal width would hold nearly everything in the first one: a click is rare.

    Raises:
        InvalidFieldError: There are none, the two differ in length, or a probability is not in [0, 1].

    Source: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017; equal counts as in K. Nguyen and B. O'Connor, EMNLP 2015.
    """
    probabilities, outcomes = np.asarray(forecasts[0], np.float64), np.asarray(forecasts[1], np.float64)
    if not len(probabilities) or probabilities.shape != outcomes.shape:
        raise InvalidFieldError(
            "forecasts", f"are {probabilities.shape} and {outcomes.shape}; give as many outcomes as probabilities, at least one"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise InvalidFieldError("forecasts", "hold a probability outside [0, 1]; give probabilities, not scores")
    edges = np.unique(np.quantile(probabilities, np.arange(1, bins) / bins, method="higher"))
    place = np.searchsorted(edges, probabilities, side="right")
    count = np.bincount(place)
    held = count > 0
    forecast = np.bincount(place, probabilities)[held] / count[held]
    outcome = np.bincount(place, outcomes)[held] / count[held]
    found = tuple(Bin(*row) for row in zip(count[held].tolist(), forecast.tolist(), outcome.tolist(), strict=True))
    return Calibration(
        count=len(probabilities),
        rate=float(outcomes.mean()),
        error=float((count[held] * np.abs(forecast - outcome)).sum() / len(probabilities)),
        brier=float(((probabilities - outcomes) ** 2).mean()),
        bins=found,
    )
