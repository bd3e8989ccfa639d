from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.retrieval.shares import Binning, SparseShares

_PARTS = st.lists(st.lists(st.tuples(st.integers(0, 39), st.floats(-4, 4, width=32)), max_size=30), max_size=4)


def _shares(rows: list[int]) -> SparseShares:
    values = np.array(rows, np.float32) + 1
    return SparseShares(np.array(rows, np.int64), values, 2 * values, 3 * values)


@given(_PARTS, st.sampled_from([40, 41, 200, 5000]))
def test_sums_are_those_of_a_bin_for_every_row(parts: list[list[tuple[int, float]]], size: int) -> None:
    """Whether rows are many or few beside entries, each row's sum is bit for bit that of adding its values in order; others are 0."""
    columns = [np.array([row for row, _ in part], np.int32) for part in parts]
    values = [np.array([value for _, value in part], np.float64) for part in parts]
    binning = Binning()
    binning.of([np.arange(size)], 50 * size)  # what an earlier question left behind changes nothing
    binned = binning.of(columns, size)
    assert len(np.unique(binned.rows)) == len(binned.rows)
    for part in range(len(parts)):
        found = np.zeros(size, np.float32)
        found[binned.rows] = binned.sums(part, values[part])
        np.testing.assert_array_equal(found, np.bincount(columns[part], values[part], minlength=size).astype(np.float32))


@pytest.mark.parametrize("size", [8, 4000])
def test_moved_shares_are_in_order_and_leave_out_what_is_not_there(size: int) -> None:
    """In a small catalogue and in a large one each share stands at its row's new number, and every other row has zeros."""
    moved = _shares([5, 0, 3]).moved(np.array([2, -1, 1]), size)
    assert (np.diff(moved.rows) > 0).all()
    assert moved.of_all(size).transitions.tolist() == [0.0, 4.0, 6.0, *[0.0] * (size - 3)]
    found = moved.at(np.array([2, 0, 1, size - 1]))
    assert found.rows.tolist() == [2, 0, 1, size - 1]
    assert found.transitions.tolist() == [6.0, 0.0, 4.0, 0.0]
    assert found.cosine.tolist() == [12.0, 0.0, 8.0, 0.0]
    assert found.regression.tolist() == [18.0, 0.0, 12.0, 0.0]


def test_nothing_listed_is_zeros_everywhere() -> None:
    """Without a row there is nothing to look up."""
    assert _shares([]).moved(np.zeros(0, np.int64), 9).at(np.array([3, 4])).cosine.tolist() == [0.0, 0.0]
