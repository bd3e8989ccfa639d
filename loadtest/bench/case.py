"""What a case is. To add one, write a module in `cases` that lists its cases in `CASES`, and name the module in `cases.ALL`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.bench.measure import Figures
from loadtest.bench.stand import Stand

IN_FLIGHT = (1, 16, 64)


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of one case."""

    salt: int
    """Another number for each case of each round, from which new texts, contexts and ids are made, so that no cache answers."""
    seconds: float
    """Length of one measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table."""

    name: str
    measure: Callable[[Stand, Round], Figures]
    beside: str = ""
    """Name of the case that it is compared with, in the same round. Empty: none."""
    rate_at_least: float = 0.0
    """Target of the ratio of rates; 0: none."""
    cpu_at_most: float = 0.0
    """Target of the ratio of processor time for an answer; 0: none."""
    p95_at_most: float = 0.0
    """Target of the ratio of p95; 0: none."""
