from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.retrieval.vector_rows import FloatArray, VectorRows

SIZES = st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e5])


def drawn(seed: int, count: int, dimension: int, size: float) -> FloatArray:
    """Returns vectors of lengths near `size`, each ten times longer or shorter than others."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, dimension)) * size * 10 ** rng.uniform(-1, 1, (count, 1))).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 30), dimension=st.integers(1, 70), size=SIZES, packed=st.booleans())
def test_scores_are_those_of_the_vectors(*, seed: int, count: int, dimension: int, size: float, packed: bool) -> None:
    """Kept in 32 or in 16 bits, vectors of any length give inner products within a hundred thousandth of |q| |x|."""
    vectors = drawn(seed, count, dimension, size)
    query = drawn(seed + 1, 1, dimension, 1.0)[0]
    rows = VectorRows.empty(count + 3, dimension, packed=packed)
    rows.write(3, vectors)
    slots = np.random.default_rng(seed).integers(3, count + 3, 40)
    found = rows.products(query, slots)
    exact = vectors[slots - 3].astype(np.float64) @ query
    lengths = np.linalg.norm(vectors[slots - 3].astype(np.float64), axis=1) * np.linalg.norm(query)
    # A rounding of 1/65534 of the largest number, in each of D numbers, all in the worst direction.
    room = lengths * (1e-6 + (dimension**0.5 / 65_534 if packed else 0)) + 1e-37
    assert (np.abs(found - exact) <= room).all()
    np.testing.assert_allclose(rows.take(slots), rows.part(3, count + 3)[slots - 3])


@pytest.mark.parametrize("packed", [False, True])
def test_equal_vectors_have_equal_scores(*, packed: bool) -> None:
    """A vector's score is the same to the last bit, wherever the vector stands and with whatever it is asked for."""
    vector = drawn(1, 1, 1536, 1.0)
    rows = VectorRows.empty(300, 1536, packed=packed)
    rows.write(0, np.repeat(vector, 300, axis=0))
    query = drawn(2, 1, 1536, 1.0)[0]
    scores = {float(one) for slots in (np.arange(300), np.array([7]), np.array([299, 3])) for one in rows.products(query, slots)}
    assert len(scores) == 1
    assert rows.products(np.zeros(1536, np.float32), np.array([1])).tolist() == [0.0]


@pytest.mark.parametrize("packed", [False, True])
def test_taking_a_few_touches_a_few(*, packed: bool) -> None:
    """A part of two vectors among thousands is had without memory for more than those."""
    rows = VectorRows.empty(4000, 1536, packed=packed)
    rows.write(0, drawn(4, 4000, 1536, 1.0))
    wanted, part = np.array([3999, 7]), slice(384, 768)
    tracemalloc.start()
    found = rows.take(wanted, part)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 100_000  # that part of all of them has three million or more
    np.testing.assert_array_equal(found, np.stack([rows.part(one, one + 1)[0, part] for one in wanted]))


@pytest.mark.parametrize(("before", "after"), [(False, False), (False, True), (True, True), (True, False)])
def test_moving_packs_at_most(*, before: bool, after: bool) -> None:
    """Larger room holds what was there, bit for bit unless it packs; what was packed stays so."""
    vectors = drawn(3, 50, 24, 1.0)
    rows = VectorRows.empty(50, 24, packed=before)
    rows.write(0, vectors)
    moved = rows.moved(40, 90, packed=after)
    assert (moved.capacity, moved.packed) == (90, before or after)
    assert (moved.slot_bytes == 52) == moved.packed
    if before == moved.packed:
        np.testing.assert_array_equal(moved.part(0, 40), rows.part(0, 40))
    else:
        np.testing.assert_allclose(moved.part(0, 40), vectors[:40], atol=np.abs(vectors).max() / 60_000)
