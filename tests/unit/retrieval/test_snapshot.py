from __future__ import annotations

import resource
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from server.domain import Item, ItemId
from server.errors import CorruptDataError, NotFoundError, UnavailableError
from server.retrieval import snapshot
from server.retrieval.filters import compile_filter
from server.retrieval.index import ItemIndex
from server.retrieval.maintenance import Limits

LIMITS = Limits(exact_slots=400, packed_numbers=3000)


def catalogue(count: int, *, limits: Limits | None = None) -> ItemIndex:
    """Returns an index with every kind of field, one item moved and one deleted."""
    rng = np.random.default_rng(1)
    index = ItemIndex(8, limits=limits or Limits(), background=False)
    items = [
        Item(
            item_id=ItemId(f"i{number}"),
            title=f"Täble {number}",
            categories=("venue", "garden"),
            price=float(number),
            attributes={"rooms": [{"name": "Blue", "seats": number}], "open": True},
            available_from=datetime(2026, 5, 1, 12, 30, 0, 125, tzinfo=UTC),
        )
        for number in range(count)
    ]
    index.upsert(items, rng.standard_normal((count, 8)).astype(np.float32))
    index.maintain()
    index.upsert(items[3:4], np.full((1, 8), 2, np.float32))
    index.delete([ItemId("i4")])
    return index


@pytest.mark.parametrize("count", [50, 600])
def test_a_loaded_index_answers_as_the_saved_one(tmp_path: Path, count: int) -> None:
    """Items, rows, filters, codes and search results are the same after a round trip, and the index takes writes."""
    index = catalogue(count, limits=LIMITS)
    snapshot.save(index.view(), tmp_path / "a" / "b", metadata={"revision": "17"})
    loaded, metadata = snapshot.load(tmp_path / "a" / "b", limits=LIMITS, background=False)
    assert metadata == {"revision": "17"}
    assert (loaded.view().codes is None) == (index.view().codes is None) == (count == 50)
    assert list(loaded) == list(index)
    queries = np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)
    for where in (None, compile_filter("price < 20 AND attributes.rooms.seats > 2 AND available_from > 2026-05-01")):
        one, other = (each.search_now(queries, 10, where=where) for each in (index, loaded))
        assert one.ids == other.ids
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.rows, other.rows)
    loaded.upsert([Item(item_id=ItemId("i4"), title="back")], np.full((1, 8), 9, np.float32))
    assert loaded.search_now(np.ones(8, np.float32), 1).ids == (("i4",),)
    assert len(loaded) == count


def test_codes_are_learned_after_a_load_without_them(tmp_path: Path) -> None:
    """A large index that was saved before its codes were ready learns them after the load, without waiting for a write."""
    snapshot.save(catalogue(600).view(), tmp_path)
    loaded, _ = snapshot.load(tmp_path, limits=LIMITS)
    loaded.settle()
    assert loaded.view().codes is not None


def test_what_was_deleted_is_not_written(tmp_path: Path) -> None:
    """Neither the name nor the vector of a deleted item is in any file of a snapshot."""
    index = ItemIndex(8, background=False)
    secret = np.arange(8, dtype=np.float32) + 0.123
    index.upsert([Item(item_id=ItemId("kept"), title="k"), Item(item_id=ItemId("erased"), title="Secret")], np.stack([secret * 2, secret]))
    index.delete([ItemId("erased")])
    snapshot.save(index.view(), tmp_path)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"kept" in written
    assert b"erased" not in written
    assert b"Secret" not in written
    assert secret.tobytes() not in written


def test_saving_again_replaces(tmp_path: Path) -> None:
    """Only the last snapshot stays, and it is the one that loads."""
    snapshot.save(catalogue(5).view(), tmp_path)
    snapshot.save(catalogue(7).view(), tmp_path)
    assert len(snapshot.load(tmp_path)[0]) == 6
    assert len(list(tmp_path.glob("v-*"))) == 1


def test_an_empty_index_can_be_saved(tmp_path: Path) -> None:
    """An index without items makes the round trip too."""
    snapshot.save(ItemIndex(8).view(), tmp_path)
    assert len(snapshot.load(tmp_path)[0]) == 0


def test_no_snapshot_is_told_apart_from_a_broken_one(tmp_path: Path) -> None:
    """A folder without a snapshot is NotFoundError."""
    with pytest.raises(NotFoundError, match="no index snapshot"):
        snapshot.load(tmp_path)


@pytest.mark.parametrize(
    "name", ["CURRENT", "manifest.json", "vectors.bin", "items.jsonl", "rows.json", "base.faiss", "fresh.faiss", "lists.u16"]
)
@pytest.mark.parametrize("harm", ["cut", "flip", "remove", "empty"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, harm: str) -> None:
    """A snapshot with any file cut, changed or missing is CorruptDataError, never a wrong index."""
    snapshot.save(catalogue(600, limits=LIMITS).view(), tmp_path)
    (path,) = tmp_path.rglob(name)
    data = path.read_bytes()
    middle = len(data) // 2
    match harm:
        case "cut":
            path.write_bytes(data[:middle])
        case "flip":
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        case "remove":
            path.unlink()
        case _:
            path.write_bytes(b"")
    with pytest.raises(NotFoundError if (name, harm) == ("CURRENT", "remove") else CorruptDataError):
        snapshot.load(tmp_path)


def test_a_disk_that_refuses_leaves_the_last_snapshot(tmp_path: Path) -> None:
    """When a file cannot be written whole, the caller is told, the rest is cleared away, and the snapshot before still loads."""
    snapshot.save(catalogue(5).view(), tmp_path)
    view = catalogue(50).view()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    try:
        with pytest.raises(UnavailableError, match="disk"):
            snapshot.save(view, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert len(list(tmp_path.glob("v-*"))) == 1
    assert len(snapshot.load(tmp_path)[0]) == 4
