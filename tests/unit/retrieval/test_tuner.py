from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.retrieval.nearest import CodeIndex
from server.retrieval.prefix import principal
from server.retrieval.tuner import build
from server.retrieval.vector_rows import FloatArray, IntArray, VectorRows

COUNT, DIMENSION = 12_000, 160


def latent(seed: int, count: int, *, centres: int = 240) -> FloatArray:
    """Returns vectors in clusters that differ in 24 of 160 directions, as trained ones do, with some noise in all."""
    world, rng = np.random.default_rng(9), np.random.default_rng(seed)
    mixing = world.standard_normal((24, DIMENSION)) / 5
    near = world.standard_normal((centres, 24))[rng.integers(0, centres, count)] + 0.5 * rng.standard_normal((count, 24))
    vectors: FloatArray = (near @ mixing + 0.05 * rng.standard_normal((count, DIMENSION))).astype(np.float32)
    return vectors


def kept(vectors: FloatArray, *, packed: bool = False) -> VectorRows:
    """Returns them as rows."""
    rows = VectorRows.empty(len(vectors), vectors.shape[1], packed=packed)
    rows.write(0, vectors)
    return rows


@pytest.fixture(scope="module")
def vectors() -> FloatArray:
    """Returns the items' vectors."""
    return latent(1, COUNT)


@pytest.fixture(scope="module")
def codes(vectors: FloatArray) -> CodeIndex:
    """Returns codes that the tuner made of them."""
    found = build(kept(vectors), np.ones(COUNT, np.bool_), np.empty((0, DIMENSION), np.float32))
    assert found is not None
    return found


def recall(codes: CodeIndex, vectors: FloatArray, allowed: IntArray, queries: FloatArray, k: int = 100) -> float:
    """Returns the mean recall@k among allowed slots."""
    mask = np.zeros(len(vectors), np.bool_)
    mask[allowed] = True
    scores = queries @ vectors.T
    scores[:, ~mask] = -np.inf
    depth = min(k, len(allowed))
    best = np.argsort(-scores, axis=1)[:, :depth]
    found = codes.search(queries, k, None if mask.all() else mask, len(allowed) / len(vectors))
    assert all(mask[slots].all() for slots in found)
    return float(np.mean([np.isin(wanted, slots).mean() for wanted, slots in zip(best, found, strict=True)]))


def test_the_short_form_is_chosen_where_it_suffices(codes: CodeIndex, vectors: FloatArray) -> None:
    """Vectors that differ in few directions are searched through 128 of them, 32 bytes each, and the best are found."""
    assert (codes.prefix.dimensions, codes.base.code_size) == (128, 64 // 2)
    assert recall(codes, vectors, np.arange(COUNT), latent(2, 64)) >= 0.98


def test_a_choice_can_be_repeated(codes: CodeIndex, vectors: FloatArray) -> None:
    """The same vectors give the same form and setting."""
    again = build(kept(vectors), np.ones(COUNT, np.bool_), np.empty((0, DIMENSION), np.float32))
    assert again is not None
    assert (again.prefix.dimensions, again.setting) == (codes.prefix.dimensions, codes.setting)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.005, 0.01, 0.03, 0.1, 0.3, 0.9]),
    shape=st.sampled_from(["at random", "near", "far", "one side"]),
)
def test_filters_cost_no_recall(codes: CodeIndex, vectors: FloatArray, seed: int, share: float, shape: str) -> None:
    """Filters of any share keep the recall of brute force, be it random, near the queries, around what is farthest, or on a side."""
    rng = np.random.default_rng(seed)
    queries = np.repeat(latent(seed, 1), 8, axis=0) + 0.1 * latent(seed + 1, 8)
    count = max(60, int(share * COUNT))
    match shape:
        case "at random":
            allowed = rng.choice(COUNT, count, replace=False)
        case "near":
            allowed = np.argsort(-(vectors @ queries[0]))[:count]
        case "far":
            allowed = np.argsort(-(vectors @ vectors[np.argmin(vectors @ queries[0])]))[:count]
        case _:
            allowed = np.argsort(vectors @ rng.standard_normal(DIMENSION).astype(np.float32))[:count]
    assert recall(codes, vectors, allowed, queries, k=50) >= 0.95  # eight like queries; calibration promises .98 of a mean over all kinds


def test_lengths_that_differ_a_hundredfold_get_finer_codes() -> None:
    """Where few long vectors would take all of a shared code, eight bits a number are chosen, and the best are still found."""
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((6000, 200)).astype(np.float32) * np.exp(1.5 * rng.standard_normal((6000, 1))).astype(np.float32)
    queries = rng.standard_normal((200, 200)).astype(np.float32)
    found = build(kept(vectors, packed=True), np.ones(6000, np.bool_), queries[:128])
    assert found is not None
    assert found.base.code_size >= 200
    assert recall(found, vectors, np.arange(6000), queries[128:]) >= 0.97


def test_growth_keeps_what_was_there(vectors: FloatArray) -> None:
    """Codes extended piece by piece, through merges, cover all slots, find what is new and leave the earlier index as it was."""
    rows = kept(vectors)
    first = build(rows, np.ones(4000, np.bool_), np.empty((0, DIMENSION), np.float32))
    assert first is not None
    grown = first
    bases = set()
    for size in range(4500, COUNT + 1, 500):
        grown = grown.extended(rows, size)
        bases.add(int(grown.base.ntotal))
    assert (first.size, grown.size) == (4000, COUNT)
    assert len(bases) > 2
    np.testing.assert_array_equal(grown.list_of[:4000], first.list_of)
    assert recall(grown, vectors, np.arange(COUNT), latent(3, 64)) >= 0.95  # lists learned from a third of it
    assert recall(grown, vectors, np.arange(11_900, COUNT), latent(3, 8), k=20) >= 0.95


def test_directions_that_no_query_asks_for_come_last() -> None:
    """The short form spends its room on what queries weigh: loud directions that no query asks for do not push out quiet ones."""
    rng = np.random.default_rng(5)
    items = rng.standard_normal((3000, 64)).astype(np.float32)
    items[:, :32] *= 30
    queries = rng.standard_normal((100, 64)).astype(np.float32)
    queries[:, :32] = 0
    short = principal(items, queries[:50]).first(32, rng)
    lost = short.queries(queries) @ short.items(items).T - queries @ items.T
    assert lost.std() < 0.05 * (queries @ items.T).std()
