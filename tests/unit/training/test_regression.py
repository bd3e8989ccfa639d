from collections.abc import Sequence

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from server.retrieval.sources import CsrCounts, SparseSource
from training.regression import fit_regression

_HELD = st.lists(st.sets(st.integers(0, 7), min_size=1), min_size=1, max_size=20)


def _matrix(users: Sequence[set[int]], items: int = 8) -> sp.csr_matrix:
    held = np.zeros((len(users), items), np.float32)
    for row, user in enumerate(users):
        held[row, sorted(user)] = 1
    return sp.csr_matrix(held)


def _dense(weights: CsrCounts) -> np.ndarray:
    size = len(weights.indptr) - 1
    return np.asarray(sp.csr_matrix((weights.data, weights.indices, weights.indptr), shape=(size, size)).toarray())


@given(_HELD)
def test_weights_minimise_the_penalised_error(users: list[set[int]]) -> None:
    """The weights are those of the ridge regression of each item on all others, solved column by column."""
    held = _matrix(users).toarray().astype(np.float64)
    count = held.sum(axis=0)
    expected = np.zeros((8, 8))
    for item in np.flatnonzero(count):
        others = [other for other in np.flatnonzero(count) if other != item]
        inputs = held[:, others]
        penalised = inputs.T @ inputs + np.diag(100 + count[others])
        expected[others, item] = np.linalg.solve(penalised, inputs.T @ held[:, item])
    np.testing.assert_allclose(_dense(fit_regression(_matrix(users))), expected, atol=1e-6)


def test_only_the_head_takes_part_and_rows_keep_their_largest() -> None:
    """Items beyond the head have no weights, and a row keeps its largest of either sign."""
    generator = np.random.default_rng(0)
    held = sp.csr_matrix((generator.random((400, 30)) < np.linspace(0.6, 0.05, 30)).astype(np.float32))
    weights = _dense(fit_regression(held, head=10))
    assert weights[:10, :10].any(axis=1).all()
    assert not weights[10:].any()
    assert not weights[:, 10:].any()
    kept = _dense(fit_regression(held, head=10, kept=3))
    for row in range(10):
        largest = np.argsort(-np.abs(weights[row]))[:3]
        assert sorted(np.flatnonzero(kept[row])) == sorted(largest)
        np.testing.assert_array_equal(kept[row, largest], weights[row, largest])


def test_what_never_goes_together_has_negative_weight() -> None:
    """Of two items that each go with a third but not with each other, one speaks against the other; a cosine cannot tell."""
    weights = _dense(fit_regression(_matrix([{0, 1}, {0, 2}] * 500, items=3)))
    assert weights[0, 1] > 0
    assert weights[2, 1] < 0


def test_nobody_and_nothing() -> None:
    """Without interactions there are no weights, and the source answers zeros."""
    weights = fit_regression(sp.csr_matrix((0, 4), dtype=np.float32))
    none, zeros = CsrCounts.empty(4), np.zeros(4, np.float32)
    source = SparseSource(["a", "b", "c", "d"], none, none, zeros, zeros, regression=weights, decays=(1, 1, 1))
    assert source.scores(np.array([1, 2]), np.ones(2, np.float32), "regression").tolist() == [0.0] * 4


def test_scores_are_weighted_sums_and_never_negative() -> None:
    """The score of an item is the weighted sum of its weights from the history, and 0 where that is below."""
    weights = fit_regression(_matrix([{0, 1}, {0, 2}, {1, 3}] * 300, items=4))
    none, zeros = CsrCounts.empty(4), np.zeros(4, np.float32)
    source = SparseSource(["a", "b", "c", "d"], none, none, zeros, zeros, regression=weights, decays=(1, 1, 1))
    scores = source.scores(np.array([0, 3]), np.array([0.5, 1], np.float32), "regression")
    expected = 0.5 * _dense(weights)[0] + _dense(weights)[3]
    assert scores == pytest.approx(np.maximum(expected, 0), abs=1e-6)
    assert (expected < 0).any()
