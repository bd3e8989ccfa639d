"""Maximal marginal relevance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.domain.ranking import VECTOR_DIMENSIONS
from server.retrieval.diversity import diversified, likeness_vectors
from server.retrieval.vectors import COLLABORATIVE, SEMANTIC

FloatArray = NDArray[np.float32]


def pool(seed: int, size: int) -> tuple[FloatArray, FloatArray]:
    """Returns falling scores and unit vectors."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(size, 6)).astype(np.float32)
    return -np.sort(-random.normal(size=size).astype(np.float32)), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def worth(place: int, taken: list[int], scores: FloatArray, likeness: FloatArray, strength: float) -> float:
    """Returns what the definition says a place is worth after others were taken, pair by pair."""
    relevance = float(scores[place] - scores[-1]) / max(float(scores[0] - scores[-1]), 1e-9)
    return (1 - strength) * relevance - strength * max((float(likeness[place] @ likeness[one]) for one in taken), default=0.0)


@given(st.integers(0, 1000), st.integers(1, 15), st.sampled_from([0.1, 0.3, 0.5, 0.8]), st.integers(1, 20))
def test_the_order_is_that_of_the_definition(seed: int, size: int, strength: float, limit: int) -> None:
    """No place is worth more by the formula than the one taken before it."""
    scores, vectors = pool(seed, size)
    vectors = np.maximum(vectors, 0)
    order = diversified(scores, vectors, strength=strength, limit=limit)
    for step in range(min(limit, size)):
        taken = order[:step]
        best = max(worth(place, taken, scores, vectors, strength) for place in order[step:])
        assert worth(order[step], taken, scores, vectors, strength) == pytest.approx(best, abs=1e-5)


@given(st.integers(0, 1000), st.integers(0, 30), st.floats(0, 0.9), st.integers(0, 40))
def test_nothing_is_lost_or_doubled(seed: int, size: int, strength: float, limit: int) -> None:
    """The order holds each place once, begins with the best score, and keeps the order of scores after the limit."""
    scores, vectors = pool(seed, size)
    order = diversified(scores, vectors, strength=strength, limit=limit)
    assert sorted(order) == list(range(size))
    assert order[limit:] == sorted(order[limit:])
    assert order[:1] == list(range(size))[:1]


@given(st.integers(0, 1000), st.integers(1, 30))
def test_without_strength_the_order_is_that_of_scores(seed: int, size: int) -> None:
    """At strength 0 no likeness changes anything."""
    scores, vectors = pool(seed, size)
    assert diversified(scores, vectors, strength=0.0, limit=size) == list(range(size))


def test_twins_are_parted() -> None:
    """Of three items of nearly the same score, the one unlike the best comes before the best one's twin."""
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    assert diversified(np.array([1.0, 0.99, 0.98, 0.0], np.float32), vectors, strength=0.3, limit=3) == [0, 2, 1, 3]


def test_items_are_alike_by_text_else_by_taste() -> None:
    """Texts are compared where there are any, tastes where both lack a text, and a text is not like a taste."""
    fused = np.zeros((4, VECTOR_DIMENSIONS), np.float32)
    fused[0, SEMANTIC.start], fused[1, SEMANTIC.start : SEMANTIC.start + 2] = 1.0, 1.0
    fused[0, COLLABORATIVE.start] = fused[2, COLLABORATIVE.start] = 5.0
    likeness = likeness_vectors(fused) @ likeness_vectors(fused).T
    assert likeness[0, 1] == pytest.approx(0.5**0.5)
    assert likeness[2, 2] == pytest.approx(1.0)
    assert not likeness[0, 2]
    assert not likeness[3].any()
