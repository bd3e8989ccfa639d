"""The cases, in the order of the table."""

from __future__ import annotations

from loadtest.bench.case import Case
from loadtest.bench.cases import concurrency, embed, ingest, limits, mixed, precision, recommend, rest

ALL: tuple[Case, ...] = (
    *limits.CASES,
    *precision.CASES,
    *embed.CASES,
    *recommend.CASES,
    *mixed.CASES,
    *rest.CASES,
    *ingest.CASES,
    *concurrency.CASES,
)
