"""Chooses how a catalogue is searched, by what its own vectors and queries need for the recall that is promised.

The forms of `FORMS` are tried from the one of fewest bytes. One whose short vectors alone lose too much on a sample is passed over; of
the others lists and codebooks are learned, and measured against exact search are: the share of lists scanned, the survivors scored
exactly, and how both have to grow under filters, one that keeps a tenth at random and one that keeps a tenth of the lists. The setting
that costs least counts. Where none reaches the target, the answer is None, and the caller stays exact.

Shapes: B queries, S slots, D embedding dimensions, P short dimensions, n slots of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import faiss
import numpy as np

from server.retrieval.nearest import DEPTH, CodeIndex, Setting, untrained
from server.retrieval.prefix import Prefix, principal
from server.retrieval.scan import BoolArray
from server.retrieval.vector_rows import FloatArray, IntArray, VectorRows

TARGET_RECALL = 0.98
"""Mean recall@100 that is promised: the measured mean has to be above it by two standard errors."""

FORMS = ((128, 2), (256, 2), (512, 2), (0, 4), (256, 0), (0, 2), (512, 0), (0, 0))
"""Short dimensions, 0 for the whole vector, and how many of them share 4 bits, 0 for 8 bits each. For D = 1536 that is 32, 64, 128, 192,
256, 384, 512 and 1536 bytes a vector. Numbers of 8 bits are for vectors whose lengths differ a hundredfold, which shared codes blur."""

LEAST = 256
"""Live slots below which there is nothing to learn from."""

_LIST_SIZE = 512
_MAX_LISTS = 4096
_SAMPLE_PER_LIST = 64
_LEAST_SAMPLE = 8192
_SCREENED = 16_384
"""Slots of the sample on which short vectors are tried; its first survivors have to hold the best."""
_SCREEN_SURVIVORS = 400
_PROBED = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
_EXPANSIONS = (2, 3, 4, 6, 8, 16)
_SPREADS = (1.0, 2.0, 4.0, 16.0)
_PLENTY = 4
"""An expansion up to which finer codes could gain little."""
_FILTERED_SHARE = 0.1
_QUERIES = 64
"""Least number to measure with; as many others teach the short form, which would flatter itself on what it was learned from."""
_SCORED_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Trial:
    """What search is measured against: queries and the scores that they have to reach."""

    rows: VectorRows
    size: int
    """S."""
    queries: FloatArray
    """(B, D)."""
    depth: int

    def least(self, slots: IntArray) -> FloatArray:
        """Returns each query's score of the last of its best `depth` among these slots, (B,): equal vectors may stand for each other."""
        best = np.full((len(self.queries), self.depth), -np.inf, np.float32)
        for first in range(0, len(slots), _SCORED_AT_ONCE):
            scores = self.queries @ self.rows.take(slots[first : first + _SCORED_AT_ONCE]).T
            best = -np.partition(-np.concatenate([best, scores], axis=1), self.depth - 1, axis=1)[:, : self.depth]
        return np.asarray(best.min(axis=1), np.float32)

    def recall(self, codes: CodeIndex, allowed: BoolArray, least: FloatArray, scanned: float, expansions: tuple[int, ...]) -> list[float]:
        """Returns the mean recall at each expansion, less two standard errors."""
        counts = [Setting(1, one, 1).survivors(self.depth) for one in expansions]
        found = codes.survivors(self.queries, max(counts), None if allowed.all() else allowed, scanned)
        right = np.zeros((len(expansions), len(self.queries)))
        for place, ((slots, _), low, query) in enumerate(zip(found, least.tolist(), self.queries, strict=True)):
            slack = 1e-5 * max(abs(low), 1e-20)
            hits = self.rows.products(query, slots) >= low - slack
            right[:, place] = [min(self.depth, int(np.count_nonzero(hits[:count]))) for count in counts]
        sure = right.mean(axis=1) - 2 * right.std(axis=1) / np.sqrt(len(self.queries))
        return [float(one) / self.depth for one in sure]


def build(rows: VectorRows, alive: BoolArray, queries: FloatArray, *, seed: int = 0) -> CodeIndex | None:
    """Returns codes for all slots with the cheapest setting that keeps the promise, or None where none does or too few live.

    Args:
        rows: The vectors.
        alive: (S,).
        queries: (B, D), to calibrate on. With fewer than 128, ones are made up: items, and means of several items.
        seed: Of the samples drawn.
    """
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(seed)
    live, size = np.flatnonzero(alive), len(alive)
    if len(live) < LEAST:
        return None
    lists = int(np.clip(len(live) // _LIST_SIZE, 1, _MAX_LISTS))
    drawn = rng.choice(live, min(len(live), max(_LEAST_SAMPLE, _SAMPLE_PER_LIST * lists)), replace=False)
    asked = queries if len(queries) >= 2 * _QUERIES else _made_up(rows, live, rng)
    trial = Trial(rows, size, asked[::2], min(DEPTH, len(live)))
    least = trial.least(live)
    best: tuple[float, CodeIndex] | None = None
    for prefix, subspace in _forms(rows.take(drawn[:_SCREENED]), trial, asked[1::2], rng):
        empty = untrained(prefix.dimensions, lists, subspace)
        empty.train(_short(prefix, rows, np.sort(drawn)))
        codes = CodeIndex.of(prefix, empty, Setting(1, 1, 1), rows, size)
        setting = _setting(codes, trial, alive, least)
        if setting is not None:
            setting = replace(setting, spread=_spread(codes, setting, trial, live, rng))
            cost = codes.cost_us(setting, DEPTH)
            if best is None or cost < best[0]:
                best = cost, replace(codes, setting=setting)
            if setting.expansion <= _PLENTY:
                break
    return best[1].on_gpu(rows) if best else None


def _forms(sample: FloatArray, trial: Trial, queries: FloatArray, rng: np.random.Generator) -> Iterator[tuple[Prefix, int]]:
    """Yields the forms worth learning codes for."""
    dimension = trial.queries.shape[1]
    directions = None
    for short, subspace in FORMS:
        if not short:
            yield Prefix.whole(dimension, max(1, subspace)), subspace
        elif short < dimension:
            directions = directions or principal(sample, queries)
            prefix = directions.first(short, rng)
            if _screened(prefix, sample, trial):
                yield prefix, subspace


def _screened(prefix: Prefix, sample: FloatArray, trial: Trial) -> bool:
    """Returns whether the best by short vectors hold the best by whole ones, on a sample."""
    depth, count = min(trial.depth, len(sample)), min(_SCREEN_SURVIVORS, len(sample))
    exact = trial.queries @ sample.T  # (B, n)
    low = -np.partition(-exact, depth - 1, axis=1)[:, depth - 1 : depth]
    near = np.argpartition(-(prefix.queries(trial.queries) @ prefix.items(sample).T), count - 1, axis=1)[:, :count]
    hits = np.minimum((np.take_along_axis(exact, near, axis=1) >= low).sum(axis=1), depth)
    return float(hits.mean()) / depth >= TARGET_RECALL


def _short(prefix: Prefix, rows: VectorRows, slots: IntArray) -> FloatArray:
    parts = [prefix.items(rows.take(slots[first : first + _SCORED_AT_ONCE])) for first in range(0, len(slots), _SCORED_AT_ONCE)]
    return np.concatenate(parts)


def _made_up(rows: VectorRows, live: IntArray, rng: np.random.Generator) -> FloatArray:
    """Returns queries as users may have them, (128, D)."""
    items = rows.take(rng.choice(live, _QUERIES // 2))
    means = [rows.take(rng.choice(live, 8)).mean(axis=0) for _ in range(2 * _QUERIES - len(items))]
    return rng.permutation(np.concatenate([items, np.stack(means)]).astype(np.float32))


def _setting(codes: CodeIndex, trial: Trial, alive: BoolArray, least: FloatArray) -> Setting | None:
    """Returns the cheapest of the settings that reach the target without a filter."""
    found: list[tuple[float, Setting]] = []
    for probed in _PROBED:
        recalls = trial.recall(codes, alive, least, probed, _EXPANSIONS)
        expansion = next((one for one, recall in zip(_EXPANSIONS, recalls, strict=True) if recall >= TARGET_RECALL), 0)
        if expansion:
            found.append((codes.cost_us(Setting(probed, expansion, 1), DEPTH), Setting(probed, expansion, 1)))
    return min(found, key=lambda one: one[0])[1] if found else None


def _spread(codes: CodeIndex, setting: Setting, trial: Trial, live: IntArray, rng: np.random.Generator) -> float:
    """Returns how much faster scanning has to grow than filters narrow."""
    at_random = rng.choice(live, max(trial.depth, int(len(live) * _FILTERED_SHARE)), replace=False)
    some_lists = rng.permutation(codes.lists)[: max(1, int(codes.lists * _FILTERED_SHARE))]
    by_list = live[np.isin(codes.list_of[live], some_lists)]
    tests: list[tuple[BoolArray, FloatArray, float]] = []
    for slots in (at_random, by_list):
        if len(slots) >= trial.depth:
            allowed = np.zeros(trial.size, np.bool_)
            allowed[slots] = True
            tests.append((allowed, trial.least(slots), len(slots) / trial.size))
    for spread in _SPREADS:
        shares = [replace(setting, spread=spread).scanned(trial.depth, share) for _, _, share in tests]
        if all(
            trial.recall(codes, allowed, least, scanned, (setting.expansion,))[0] >= TARGET_RECALL
            for (allowed, least, _), scanned in zip(tests, shares, strict=True)
        ):
            return spread
    return float("inf")  # every list, as soon as there is a filter
