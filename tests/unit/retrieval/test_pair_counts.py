from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.retrieval.pair_counts import PairCounts

_ROWS = 12
_ENTRY = st.tuples(st.integers(0, _ROWS - 1), st.integers(0, _ROWS - 1), st.integers(-3, 6))


def _add(counts: PairCounts, entries: list[tuple[int, int, int]]) -> None:
    rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
    counts.add(rows << 32 | columns, values.astype(np.float32))


def _spread(counts: PairCounts, weights: np.ndarray) -> np.ndarray:
    """Returns, for each column, the sum over rows of weight * count."""
    rows = np.flatnonzero(weights)
    columns, values = counts.gather(rows, weights[rows], len(weights))
    return np.bincount(columns, values, minlength=len(weights)).astype(np.float32)


def _matrix(counts: PairCounts, size: int) -> np.ndarray:
    return np.stack([_spread(counts, weights) for weights in np.eye(size, dtype=np.float32)])


@given(st.lists(st.tuples(st.lists(_ENTRY, min_size=1, max_size=20), st.integers(1, 2000)), max_size=12))
def test_sums_are_those_of_a_table(batches: list[tuple[list[tuple[int, int, int]], int]]) -> None:
    """Whatever is added, in batches short and long, each pair has the sum of what was added to it."""
    counts, expected = PairCounts(), Counter[tuple[int, int]]()
    for entries, times in batches:
        _add(counts, entries * times)
        for row, column, value in entries:
            expected[row, column] += value * times
    matrix = _matrix(counts, _ROWS)
    assert {(row, column): matrix[row, column] for row, column in np.argwhere(matrix).tolist()} == {
        pair: value for pair, value in expected.items() if value
    }


def test_spread_weighs_rows() -> None:
    """The result is the weighted sum of the rows."""
    counts = PairCounts()
    _add(counts, [(0, 1, 2), (1, 1, 3), (2, 0, 5)])
    assert _spread(counts, np.array([1.0, 10.0, 0.0], np.float32)).tolist() == [0.0, 32.0, 0.0]


def test_entries_never_outgrow_the_limit() -> None:
    """However many pairs are added there are never more than the limit and the unsorted tail, and the strongest stay."""
    counts = PairCounts(limit=10_000)
    random = np.random.default_rng(0)
    strong = [(row, 999, 500) for row in range(50)]
    _add(counts, strong)
    for _ in range(40):
        rows, columns = random.integers(0, 1000, (2, 3000))
        counts.add(rows << 32 | columns, np.ones(3000, np.float32))
        assert len(counts) <= 10_000 + 16_384
    matrix = _matrix(counts, 1000)
    assert all(matrix[row, column] >= value for row, column, value in strong)


def test_a_crowded_row_is_cut_to_its_largest() -> None:
    """A row of more than twice as many neighbours as are wanted keeps the largest, ties by column; other rows keep all."""
    counts = PairCounts(neighbours=3)
    for _ in range(2):
        _add(counts, [(0, column, 1 + (column in {5, 70})) for column in range(100)] + [(1, 2, 1)])
        _add(counts, [(2, 0, 1)] * 17_000)
    row = _matrix(counts, 100)[0]
    assert np.flatnonzero(row).tolist() == [0, 5, 70]


class _Lazy(Future[Any]):
    """Does its work when the result is asked for."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        del timeout
        return self._work()


class _Late(Executor):
    """Is never done before somebody waits."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _Lazy(lambda: fn(*args, **kwargs))


@pytest.mark.parametrize("make", [_Late, partial(ThreadPoolExecutor, 1)])
def test_merging_elsewhere_changes_no_count(make: Callable[[], Executor]) -> None:
    """With merges on another thread, quick or late, every question has all that was added before it, and memory stays bounded."""
    random = np.random.default_rng(1)
    with make() as executor:
        counts, plain = PairCounts(), PairCounts()
        counts.executor = executor
        for _ in range(60):
            rows, columns = random.integers(0, 40, (2, 3000))
            keys, values = rows << 32 | columns, random.integers(-2, 4, 3000).astype(np.float32)
            counts.add(keys, values)
            plain.add(keys, values)
            weights = random.integers(0, 3, 40).astype(np.float32)
            np.testing.assert_array_equal(_spread(counts, weights), _spread(plain, weights))
            assert len(counts) <= len(plain) + 10 * (16_384 + 3000)
