"""Probabilities among candidates."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from server.retrieval.probability import shares


@given(st.lists(st.floats(0.0009765625, 1, width=32), min_size=1, max_size=50), st.integers(1, 50))
def test_shares_add_up_and_keep_their_proportions(values: list[float], left: int) -> None:
    """Over all and over any part, in the order of the values."""
    everything = np.array(values, np.float32)
    whole, part = shares(everything), shares(everything[:left])
    assert np.isclose(whole.sum(), 1, atol=1e-5)
    assert np.isclose(part.sum(), 1, atol=1e-5)
    np.testing.assert_allclose(part * whole[:left].sum(), whole[:left], rtol=1e-4)
    assert (np.diff(whole[np.argsort(everything)]) >= 0).all()


def test_nothing_worth_anything_has_no_share() -> None:
    """Nor are there any of no candidates."""
    assert shares(np.zeros(2, np.float32)).tolist() == [0, 0]
    assert shares(np.zeros(0, np.float32)).shape == (0,)
