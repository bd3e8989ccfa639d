from __future__ import annotations

import threading

import numpy as np
import pytest

from server.domain import Item, ItemId
from server.retrieval.filters import compile_filter
from server.retrieval.index import ItemIndex
from server.retrieval.maintenance import Limits
from server.retrieval.nearest import CodeIndex
from server.retrieval.vector_rows import FloatArray

DIMENSION = 30  # no multiple of the codes' 4 dimensions
LIMITS = Limits(exact_slots=1000, tail_numbers=200 * DIMENSION, dead_slots=500)


def clustered(count: int, seed: int) -> FloatArray:
    """Returns vectors around 40 centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((40, DIMENSION))
    near: FloatArray = (centres[rng.integers(0, 40, count)] + 0.4 * rng.standard_normal((count, DIMENSION))).astype(np.float32)
    return near


def items(start: int, stop: int) -> list[Item]:
    """Returns items priced by number, modulo 100."""
    return [Item(item_id=ItemId(f"i{number}"), title="", price=float(number % 100)) for number in range(start, stop)]


@pytest.fixture(scope="module")
def vectors() -> FloatArray:
    """Returns vectors so many that a hundredth of them is still more than is scored one by one."""
    return clustered(70_000, 1)


@pytest.fixture(scope="module")
def coded(vectors: FloatArray) -> ItemIndex:
    """Returns an index of them that searches through codes."""
    return coded_index(vectors)


def coded_index(vectors: FloatArray) -> ItemIndex:
    """Returns an index that searches through codes."""
    index = ItemIndex(DIMENSION, limits=LIMITS, background=False)
    index.upsert(items(0, len(vectors)), vectors)
    index.maintain()
    assert index.view().codes is not None
    return index


@pytest.mark.parametrize("expression", ["", "price < 50", "price < 10", "price = 7", "price < 1 OR price > 97"])
def test_recall_through_codes_is_at_least_98_percent(coded: ItemIndex, vectors: FloatArray, expression: str) -> None:
    """Mean recall@100 is at least .98, under filters that keep all, half, a tenth and a hundredth of the items; scores are exact."""
    queries = clustered(50, 2)
    where = compile_filter(expression)
    scores = queries @ vectors.T
    scores[:, ~coded.mask(where)] = -np.inf
    depth = min(100, int(coded.mask(where).sum()))
    best = np.argsort(-scores, axis=1)[:, :depth]
    found = coded.search_now(queries, 100, where=where)
    assert found.rows.shape == (50, depth)
    assert np.mean([np.isin(wanted, got).mean() for wanted, got in zip(best, found.rows, strict=True)]) >= 0.98
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, found.rows, axis=1), rtol=1e-5, atol=1e-5)


def test_writes_show_at_once_beside_codes() -> None:
    """New, moved and deleted items are right in the next search, before and after the codes are extended."""
    coded = coded_index(clustered(2000, 1))
    query = np.zeros(DIMENSION, np.float32)
    query[3] = 1
    first = coded.search_now(query, 1).ids[0][0]
    coded.delete([first])
    coded.upsert(items(17, 18), 50 * query[None, :])
    coded.upsert(items(9000, 9001), 40 * query[None, :])
    for _ in range(2):
        assert coded.search_now(query, 3).ids[0][:2] == ("i17", "i9000")
        assert first not in coded.search_now(query, 1000).ids[0]
        before = coded.view().codes
        coded.upsert(items(10_000, 10_250), clustered(250, 5))
        coded.maintain()
        after = coded.view().codes
        assert before is not None
        assert after is not None
        assert after.size == coded.view().slots > before.size


def test_data_that_codes_cannot_tell_apart_stays_exact() -> None:
    """Where codes miss the promised recall on the queries that are really asked, search stays exact."""
    rng = np.random.default_rng(3)
    halves = rng.standard_normal((6000, 2))
    vectors = np.hstack([halves, halves + 0.001 * rng.standard_normal((6000, 2))]).astype(np.float32)
    index = ItemIndex(4, limits=Limits(exact_slots=1000), background=False)
    index.upsert(items(0, 6000), vectors)
    sides = rng.standard_normal((130, 2))
    queries = np.hstack([sides, -sides]).astype(np.float32)  # ask for the difference of the halves, finer than any code
    for query in queries:
        index.search_now(query, 1)
    index.maintain()
    assert index.view().codes is None
    expected = -np.sort(-(queries @ vectors.T), axis=1)[:, :50]
    np.testing.assert_allclose(index.search_now(queries, 50).scores, expected, atol=1e-6)


def test_rows_are_numbered_anew_when_most_are_dead() -> None:
    """After most items went, rows are dense again in a new generation, while an old view keeps answering with the old numbers."""
    index = ItemIndex(DIMENSION, limits=LIMITS, background=False)
    vectors = clustered(900, 4)
    index.upsert(items(0, 900), vectors)
    view = index.view()
    index.delete([ItemId(f"i{number}") for number in range(800)])
    index.maintain()
    assert (index.generation, index.view().rows, index.view().slots, len(index)) == (1, 100, 100, 100)
    assert index.rows_of([ItemId("i800"), ItemId("i3")]).tolist() == [0, -1]
    np.testing.assert_array_equal(index.vectors([0]), vectors[800:801])
    assert view.rows_of([ItemId("i800")]).tolist() == [800]
    assert len(view) == 900


def test_dropping_dead_slots_keeps_the_codes() -> None:
    """After a third of the items were replaced or deleted, the slots are dense, and search goes on through codes as good as before."""
    index = coded_index(clustered(3000, 1))
    index.upsert(items(0, 900), clustered(900, 7))
    index.delete([ItemId(f"i{number}") for number in range(2500, 3000)])
    for _ in range(3):  # extend, drop, and nothing more
        index.maintain()
    view = index.view()
    assert (len(view), view.slots, view.rows) == (2500, 2500, 3000)
    assert view.codes is not None
    assert view.codes.size == 2500
    queries = clustered(30, 8)
    scores = queries @ view.vectors(np.arange(2500)).T
    found = index.search_now(queries, 50)
    assert np.mean([np.isin(np.argsort(-row)[:50], got).mean() for row, got in zip(scores, found.rows, strict=True)]) >= 0.98


def test_background_work_never_hides_or_revives_an_item() -> None:
    """While codes are learned and extended and slots dropped, searches find every kept item at its latest place and no deleted one."""
    index = ItemIndex(DIMENSION, limits=Limits(exact_slots=300, tail_numbers=60 * DIMENSION, dead_slots=200))
    marks = 5 * np.eye(DIMENSION, dtype=np.float32)[:8]
    index.upsert(items(0, 600), clustered(600, 6))
    stop = threading.Event()
    faults: list[object] = []
    kinds: set[type[CodeIndex] | None] = set()

    def read() -> None:
        while not stop.is_set():
            view = index.view()
            kinds.add(type(view.codes) if view.codes else None)
            present = [number for number in range(8) if ItemId(f"m{number}") in view]
            for where in (None, compile_filter("attributes.mark = true")):
                found = view.search_now(marks, 1, where=where)
                wrong = [number for number in present if found.ids[number][:1] != (f"m{number}",)]
                if wrong or any(f"m{number}" in ids for ids in found.ids for number in range(8) if number not in present):
                    faults.append((present, found.ids))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        index.upsert([Item(item_id=ItemId(f"m{turn % 8}"), title="", attributes={"mark": True})], marks[turn % 8 : turn % 8 + 1])
        index.upsert(items(turn * 20, turn * 20 + 50), clustered(50, turn))
        index.delete([ItemId(f"m{(turn + 4) % 8}"), *(ItemId(f"i{number}") for number in range(turn * 20, turn * 20 + 10))])
    index.settle()
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert CodeIndex in kinds
