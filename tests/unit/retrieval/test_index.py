from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.domain import Item, ItemId
from server.errors import InvalidFieldError
from server.retrieval.filters import compile_filter
from server.retrieval.index import ItemIndex
from server.retrieval.maintenance import Limits
from server.retrieval.vector_rows import FloatArray


def item(name: str, price: float = 1.0) -> Item:
    """Returns an item with a price to filter by."""
    return Item(item_id=ItemId(name), title=name, price=price)


def basis(*hot: int, dimension: int = 4) -> FloatArray:
    """Returns unit vectors along the given axes."""
    return np.eye(dimension, dtype=np.float32)[list(hot)]


def test_upsert_and_delete_show_in_the_next_search() -> None:
    """An item is found right after upsert, at its new place after a change, and never after delete."""
    index = ItemIndex(4)
    index.upsert([item("a"), item("b")], basis(0, 1))
    assert index.search_now(basis(0), 1).ids == (("a",),)
    index.upsert([item("a")], basis(2))
    assert index.search_now(basis(2), 1).ids == (("a",),)
    assert index.search_now(basis(0), 2).scores.tolist() == [[0.0, 0.0]]
    assert index.delete([ItemId("a"), ItemId("a"), ItemId("nobody")]) == 1
    assert index.search_now(basis(2), 5).ids == (("b",),)
    assert len(index) == 1


def test_rows_stay_while_items_change() -> None:
    """An item keeps its row over changes and over delete and return; a deleted one has none."""
    index = ItemIndex(4)
    index.upsert([item("a"), item("b"), item("c")], basis(0, 1, 2))
    index.upsert([item("b", 9.0)], basis(3))
    index.delete([ItemId("c")])
    assert index.rows_of([ItemId("a"), ItemId("b"), ItemId("c"), ItemId("d")]).tolist() == [0, 1, -1, -1]
    assert index.ids([1]) == ["b"]
    assert index.vectors([1]).tolist() == basis(3).tolist()
    assert index.mask(compile_filter("price > 5")).tolist() == [False, True, False]
    index.upsert([item("d"), item("c")], basis(0, 0))
    assert index.rows_of([ItemId("c"), ItemId("d")]).tolist() == [2, 3]
    assert [one.item_id for one in index] == ["a", "b", "c", "d"]


def test_a_view_does_not_move() -> None:
    """A view answers for its moment, whatever is written after it."""
    index = ItemIndex(4)
    index.upsert([item("a")], basis(0))
    view = index.view()
    index.upsert([item("a", 7.0), item("b")], basis(1, 0))
    index.delete([ItemId("a")])
    assert view.search_now(basis(0), 5).ids == (("a",),)
    assert view.rows_of([ItemId("a"), ItemId("b")]).tolist() == [0, -1]
    found = view.item(ItemId("a"))
    assert found is not None
    assert found.price == 1.0
    assert ItemId("a") in view
    assert ItemId("b") not in view


def test_equal_scores_are_ordered_by_id() -> None:
    """Items of equal score come in the order of their ids, however many and wherever their rows stand, and alone as in a batch."""
    rng = np.random.default_rng(1)
    names = [f"i{number:03}" for number in rng.permutation(300)]
    vector = rng.standard_normal(33).astype(np.float32)
    index = ItemIndex(33)
    index.upsert([item(name) for name in names], np.tile(vector, (300, 1)))
    queries = rng.standard_normal((5, 33)).astype(np.float32)
    expected = tuple(sorted(names)[:7])
    assert index.search_now(queries, 7).ids == (expected,) * 5
    assert index.search_now(queries[:1], 7).ids == (expected,)
    assert index.search_now(np.zeros(33, np.float32), 7).ids == (expected,)


def test_a_later_duplicate_in_one_upsert_counts() -> None:
    """Of two items with one id in one upsert, the later one stays."""
    index = ItemIndex(4)
    index.upsert([item("a", 1.0), item("b"), item("a", 2.0)], basis(0, 1, 2))
    found = index.item(ItemId("a"))
    assert found is not None
    assert found.price == 2.0
    assert len(index) == 2
    assert index.vectors(index.rows_of([ItemId("a")])).tolist() == basis(2).tolist()


def test_empty_index_and_empty_filter_result_give_empty_results() -> None:
    """Nothing to find is an empty result, not an error."""
    index = ItemIndex(4)
    assert index.search_now(basis(0, 1), 3).ids == ((), ())
    index.upsert([], np.empty((0, 4), np.float32))
    index.upsert([item("a")], basis(0))
    result = index.search_now(basis(0), 3, where=compile_filter("price > 100"))
    assert result.ids == ((),)
    assert result.rows.shape == (1, 0)
    assert index.search_now(np.empty((0, 4), np.float32), 3).ids == ()


def test_filter_and_mask_restrict_the_search_itself() -> None:
    """Exactly k results come back under a filter that almost nothing passes, and a mask made before the newest rows excludes those."""
    index = ItemIndex(4)
    rng = np.random.default_rng(2)
    index.upsert([item(f"i{n}", float(n)) for n in range(500)], rng.standard_normal((500, 4)).astype(np.float32))
    mask = index.mask(compile_filter("price < 3 OR price >= 498"))
    index.upsert([item("new", 1.0)], 100 * basis(0))
    assert set(index.search_now(basis(0), 5, where=compile_filter("price < 3")).ids[0]) == {"i0", "i1", "i2", "new"}
    assert set(index.search_now(basis(0), 9, where=mask).ids[0]) == {"i0", "i1", "i2", "i498", "i499"}
    with pytest.raises(InvalidFieldError, match="mask"):
        index.search_now(basis(0), 1, where=np.ones(502, np.bool_))


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((1, 3), np.float32), "3 numbers a vector; this index holds vectors of 4"),
        (np.array([[1, 2, np.nan, 4]], np.float32), r"vectors\[0\]: holds NaN or infinity"),
        (np.array([[1, 2, np.inf, 4]], np.float32), r"vectors\[0\]: holds NaN or infinity"),
        (np.full((1, 4), 1e30, np.float32), "longer than 1e9"),
        (np.ones((2, 4), np.float32), "2 rows for 1 items"),
        (np.array([["a", "b", "c", "d"]]), "no array of numbers"),
        (np.float32(1), "1 numbers a vector"),
    ],
)
def test_bad_vector_is_refused_and_nothing_written(vectors: FloatArray, message: str) -> None:
    """A vector of the wrong length or with NaN is refused by name, and the index stays as it was."""
    index = ItemIndex(4)
    with pytest.raises(InvalidFieldError, match=message):
        index.upsert([item("a")], vectors)
    assert (len(index), index.version) == (0, 0)


@pytest.mark.parametrize("k", [0, -1, 10_001])
def test_k_out_of_range_is_refused(k: int) -> None:
    """The k of a search is 1 to 10000."""
    with pytest.raises(InvalidFieldError, match="k: is"):
        ItemIndex(4).search_now(basis(0), k)


def test_dead_row_has_no_vector() -> None:
    """Asking for the vector of a deleted item's row is an error, not another item's vector."""
    index = ItemIndex(4)
    index.upsert([item("a"), item("b")], basis(0, 1))
    index.delete([ItemId("a")])
    with pytest.raises(IndexError, match="dead"):
        index.vectors([0])


async def test_search_runs_off_the_event_loop() -> None:
    """The asynchronous search answers as the one on this thread does."""
    index = ItemIndex(4)
    index.upsert([item("a"), item("b")], basis(0, 1))
    results = await asyncio.gather(*(index.search(basis(1), 1) for _ in range(4)))
    assert {result.ids for result in results} == {(("b",),)}


def test_searches_during_writes_see_whole_writes() -> None:
    """While writers move, delete and return items, a search finds each moved item exactly once and never a deleted one."""
    dimension, pairs = 8, 40
    index = ItemIndex(dimension)
    names = [f"i{number}" for number in range(pairs)]
    vectors = np.abs(np.random.default_rng(3).standard_normal((pairs, dimension))).astype(np.float32)
    index.upsert([item(name) for name in names], vectors)
    stop = threading.Event()
    faults: list[object] = []

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            index.upsert([item(name, float(turn)) for name in names], vectors * (1 + turn % 3))
            index.upsert([item("ghost")], vectors[:1])
            index.delete([ItemId("ghost")])

    def read() -> None:
        for _ in range(300):
            view = index.view()
            found = view.search_now(np.ones(dimension, np.float32), 100)
            ids = [name for name in found.ids[0] if name != "ghost"]
            prices = {one.price for one in view if one.item_id != "ghost"}
            if sorted(ids) != sorted(names) or len(prices) != 1 or ("ghost" in found.ids[0]) != (ItemId("ghost") in view):
                faults.append((ids, prices))

    writer = threading.Thread(target=write)
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in [writer, *readers]:
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    writer.join()
    assert faults == []


class IndexAgainstDict(RuleBasedStateMachine):
    """The index beside a dict of vectors that is searched by sorting."""

    dimension = 3
    names = st.sampled_from([f"n{number}" for number in range(8)])
    coordinates = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=3, max_size=3)

    @initialize()
    def start(self) -> None:
        """Begins with nothing."""
        self.index = ItemIndex(self.dimension, limits=Limits(dead_slots=3), background=False)
        self.expected: dict[str, tuple[list[float], float]] = {}

    @rule(rows=st.lists(st.tuples(names, coordinates, st.sampled_from([1.0, 5.0])), max_size=5))
    def upsert(self, rows: list[tuple[str, list[float], float]]) -> None:
        """Writes the same to both."""
        vectors = np.array([row[1] for row in rows], np.float32).reshape(len(rows), self.dimension)
        self.index.upsert([item(name, price) for name, _, price in rows], vectors)
        self.expected.update({name: (vector, price) for name, vector, price in rows})

    @rule(chosen=st.lists(names, max_size=4))
    def delete(self, chosen: list[str]) -> None:
        """Deletes from both, which agree on how many were there."""
        gone = {name for name in chosen if self.expected.pop(name, None)}
        assert self.index.delete([ItemId(name) for name in chosen]) == len(gone)

    @rule(query=coordinates, k=st.integers(1, 10), cheap=st.booleans())
    def search(self, query: list[float], k: int, *, cheap: bool) -> None:
        """Finds the same ids, in the same order, with the same scores."""
        found = self.index.search_now(np.array(query, np.float32), k, where=compile_filter("price < 3") if cheap else None)
        rest = {name: float(np.dot(vector, query)) for name, (vector, price) in self.expected.items() if price < 3 or not cheap}
        best = sorted(rest, key=lambda name: (-rest[name], name))[:k]
        assert list(found.ids[0]) == best
        assert found.scores[0].tolist() == [rest[name] for name in best]

    @rule()
    def maintain(self) -> None:
        """Drops dead slots, and numbers rows anew when most are dead; nothing that is seen changes but row numbers."""
        self.index.maintain()

    @invariant()
    def holds_the_same_items(self) -> None:
        """Iteration, rows and ids agree with the dict."""
        if hasattr(self, "index"):
            assert {one.item_id: one.price for one in self.index} == {name: price for name, (_, price) in self.expected.items()}
            rows = self.index.rows_of([ItemId(name) for name in self.expected])
            assert self.index.ids(rows) == list(self.expected)
            assert len(self.index) == len(self.expected) == np.count_nonzero(self.index.view().live)


TestIndexAgainstDict = IndexAgainstDict.TestCase
TestIndexAgainstDict.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
