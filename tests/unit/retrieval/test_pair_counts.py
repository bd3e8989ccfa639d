from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from server.retrieval.pair_counts import PairCounts

_ROWS = 12
_ENTRY = st.tuples(st.integers(0, _ROWS - 1), st.integers(0, _ROWS - 1), st.integers(-3, 6))


def _add(counts: PairCounts, entries: list[tuple[int, int, int]]) -> None:
    rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
    counts.add(rows << 32 | columns, values.astype(np.float32))


def _matrix(counts: PairCounts, size: int) -> np.ndarray:
    return np.stack([counts.spread(weights) for weights in np.eye(size, dtype=np.float32)])


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
    assert counts.spread(np.array([1.0, 10.0, 0.0], np.float32)).tolist() == [0.0, 32.0, 0.0]


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
