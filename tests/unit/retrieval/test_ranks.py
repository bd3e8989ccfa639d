from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from server.retrieval.ranks import reciprocal_ranks

_COLUMNS = st.integers(1, 30).flatmap(lambda rows: arrays(np.float32, (rows, 3), elements=st.integers(-4, 4).map(float)))


@given(_COLUMNS)
def test_a_rank_counts_the_candidates_that_have_more(columns: np.ndarray) -> None:
    """Each place is that of a stable definition by comparison; a column of one value has no ranks."""
    larger = (columns[None] > columns[:, None]).sum(axis=1)
    varies = columns.max(axis=0) > columns.min(axis=0)
    np.testing.assert_allclose(reciprocal_ranks(columns), np.where(varies, 1 / (1 + larger), 0), rtol=1e-6)


@given(_COLUMNS, st.integers(0, 2**32 - 1))
def test_ranks_do_not_depend_on_the_order_of_candidates(columns: np.ndarray, seed: int) -> None:
    """A candidate keeps its rank wherever it stands."""
    order = np.random.default_rng(seed).permutation(len(columns))
    np.testing.assert_array_equal(reciprocal_ranks(columns[order]), reciprocal_ranks(columns)[order])


def test_no_candidates_have_no_ranks() -> None:
    """An empty list is ranked without complaint."""
    assert reciprocal_ranks(np.zeros((0, 6), np.float32)).shape == (0, 6)
