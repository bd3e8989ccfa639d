from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.report.exposure import exposure, gini, intra_list_diversity, novelty

_LISTS = st.lists(st.permutations(range(-1, 5)).map(lambda order: [item for item in order if item >= 0][:3]), min_size=1, max_size=6)


def _padded(lists: list[list[int]], cut: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Returns the lists with the last places empty."""
    return np.array([[*items[:cut], *[-1] * (3 - cut)] for items in lists])


@given(_LISTS, st.lists(st.integers(0, 9), min_size=5, max_size=5), st.integers(0, 3))
def test_novelty_is_the_mean_surprise_of_what_is_listed(lists: list[list[int]], counts: list[int], cut: int) -> None:
    """Each list's mean of -log2 of the share, by hand."""
    total = sum(counts) + 5
    expected = [sum(-math.log2((counts[item] + 1) / total) for item in items[:cut]) / max(cut, 1) for items in lists]
    np.testing.assert_allclose(novelty(_padded(lists, cut), np.array(counts)), expected)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_gini_is_half_the_relative_mean_difference(shown: list[int]) -> None:
    """The coefficient equals its definition by all pairs."""
    pairs = sum(abs(a - b) for a, b in itertools.product(shown, shown))
    expected = pairs / (2 * len(shown) * sum(shown)) if sum(shown) else 0.0
    assert gini(np.array(shown)) == pytest.approx(expected)


@given(_LISTS, st.integers(0, 3), st.integers(0, 31))
def test_diversity_is_the_mean_distance_of_pairs(lists: list[list[int]], cut: int, bits: int) -> None:
    """Pairs of items that have a vector, by hand; fewer than one pair gives nothing."""
    vectors = np.random.default_rng(bits).standard_normal((5, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[[item for item in range(5) if bits >> item & 1]] = 0
    expected = []
    for items in lists:
        pairs = itertools.combinations([item for item in items[:cut] if vectors[item].any()], 2)
        distances = [1 - float(vectors[a] @ vectors[b]) for a, b in pairs]
        expected.append(np.mean(distances) if distances else np.nan)
    np.testing.assert_allclose(intra_list_diversity(_padded(lists, cut), vectors), expected, atol=1e-6)


def test_what_is_shown_is_summed_up() -> None:
    """One item for all is no coverage, no evenness; without vectors there is no diversity."""
    found = exposure(np.array([[2], [2]]), np.array([1, 1, 0, 0]), None)
    assert (found.coverage.value, found.gini, found.diversity) == (0.25, 0.75, None)
    assert found.novelty.value == pytest.approx(math.log2(6))
