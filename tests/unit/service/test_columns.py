from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from server.domain import Item, ItemId
from server.retrieval.index import ItemIndex
from server.retrieval.sources import SparseSource, Trending
from server.service.columns import Columns

_NOW = datetime(2024, 6, 1, tzinfo=UTC)
_IDS = st.sampled_from("abcdefgh")
_WRITES = st.lists(st.tuples(st.sampled_from(["put", "content", "delete"]), _IDS), max_size=25)


def _trending() -> Trending:
    return Trending(half_life_s=86400, origin=_NOW - timedelta(days=1))


@given(_WRITES, st.dictionaries(_IDS, st.sampled_from([0.25, 0.5, 1.0])), st.data())
def test_columns_say_of_each_row_what_is_known_of_its_item(
    writes: list[tuple[str, str]], popularity: dict[str, float], data: st.DataObject
) -> None:
    """After any writes, arrays and orders equal what looking up item by item gives; content blocks and deleted items are in none."""
    index, kept = ItemIndex(2), dict[str, Item]()
    columns = Columns({ItemId(name): share for name, share in popularity.items()}, SparseSource.empty(), _trending())
    for step, (what, name) in enumerate(writes):
        if what == "delete":
            index.delete([ItemId(name)])
            kept.pop(name, None)
        else:
            item = Item(
                item_id=ItemId(name),
                title=name,
                content_type="hero_banner" if what == "content" else "",
                create_time=_NOW + timedelta(seconds=step // 3),
            )
            index.upsert([item], np.ones((1, 2), np.float32))
            kept[name] = item
        if data.draw(st.booleans()):
            columns.of(index.view())  # what was kept for an older view must not leak into the newer
    view = index.view()
    found = columns.of(view)
    shown = {name: item for name, item in kept.items() if not item.content_type}
    liked = sorted((name for name in shown if popularity.get(name)), key=lambda name: (-popularity[name], name))
    newest = sorted(shown, key=lambda name: (-shown[name].create_time.timestamp(), name))  # type: ignore[union-attr]  # all have one
    assert view.ids(found.by_popularity) == liked
    assert view.ids(found.by_age) == newest
    rows = view.rows_of([ItemId(name) for name in shown])
    assert found.popularity[rows].tolist() == [popularity.get(name, 0.0) for name in shown]


def test_what_trends_is_known_by_row() -> None:
    """The leader has share 1, an item nobody touched 0, and one that is not in the index is left out."""
    trending, index = _trending(), ItemIndex(2)
    index.upsert([Item(item_id=ItemId(name), title=name) for name in "ab"], np.ones((2, 2), np.float32))
    for name, times in (("a", 1), ("gone", 3), ("b", 2)):
        for _ in range(times):
            trending.observe(ItemId(name), _NOW)
    view = index.view()
    found = Columns({}, SparseSource.empty(), trending).trending(view)
    assert view.ids(found.leaders) == ["b", "a"]
    assert found.shares.tolist() == [np.float32(1 / 3), np.float32(2 / 3)]


def test_items_that_the_source_gains_have_a_row_at_once() -> None:
    """Rows of the source follow its items, also those observed after the arrays were made, in the same view and in a new one."""
    sparse, index = SparseSource.empty(), ItemIndex(2)
    columns = Columns({}, sparse, _trending())
    index.upsert([Item(item_id=ItemId(name), title=name) for name in "ab"], np.ones((2, 2), np.float32))
    assert columns.sparse_rows(index.view()).tolist() == []
    for items in ("b", "ba", "bac"):
        sparse.observe([ItemId(name) for name in items], [len(items) - 1])
        assert len(columns.sparse_rows(index.view())) == len(sparse.item_ids)
    assert columns.sparse_rows(index.view()).tolist() == [1, 0, -1]
    older = index.view()
    index.upsert([Item(item_id=ItemId("c"), title="c")], np.ones((1, 2), np.float32))
    assert columns.sparse_rows(index.view()).tolist() == [1, 0, 2]
    assert columns.sparse_rows(older).tolist() == [1, 0, -1]
