"""Nearest-item search over a catalogue that changes while it is searched.

    upsert / delete ──> slots of the store (append only) ──> a new IndexView, swapped in by one assignment
    search ──> the view of that moment: no lock, never half a write

Shapes: B queries, N rows, n items of one call, D embedding dimensions, K results.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from server.domain import Item, ItemId
from server.errors import InvalidFieldError
from server.priority import step_back
from server.retrieval.filters import Filter
from server.retrieval.gathering import Gathering
from server.retrieval.maintenance import Limits, Work, caught_up, compacted, due, extended, learned
from server.retrieval.scan import BoolArray
from server.retrieval.slots import SlotStore, checked_vectors
from server.retrieval.vector_rows import FloatArray, IntArray
from server.retrieval.view import Ask, IndexView, SearchResult, Where
from server.telemetry import logger

_LOG = logger(__name__)
_LIMITS = Limits()
_INLINE_NUMBERS = 6_500_000
"""S x D up to which an exact search runs on the event loop: 4,200 items of 1536."""


class ItemIndex:
    """Vectors with their items, searched by inner product under AIP-160 filters.

    Serves a tenant's catalogue and every collection of vectors alike. Writes are serialized, seen by the very next search, and
    never wait for one. Reading methods answer for the present moment; to ask several questions about one moment, take `view()` once.

    Args:
        dimension: D.
        executor: Where `search` runs, off the event loop. None: the loop's default one.
        limits: When work in the background is due.
        background: Whether writes start that work on a thread of its own. Without, the caller calls `maintain`.
    """

    def __init__(
        self,
        dimension: int,
        *,
        executor: Executor | None = None,
        limits: Limits = _LIMITS,
        background: bool = True,
    ) -> None:
        self._executor = executor
        self._gathering = Gathering(executor)
        self._limits = limits
        self._background = background
        self._writing = threading.Lock()
        self._maintaining = threading.Lock()
        self._worker: threading.Thread | None = None
        self._failed_at = 0
        self._view = IndexView(
            store=SlotStore(dimension, packed_numbers=limits.packed_numbers),
            generation=0,
            version=0,
            slots=0,
            slot_of=np.empty(0, np.int32),
            alive=np.empty(0, np.bool_),
            row_ids=[],
            row_by_id={},
        )

    def adopt(self, view: IndexView) -> None:
        """Takes a loaded view as the present one, in place of everything held so far."""
        with self._writing:
            self._view = view
            self._start_work()

    def view(self) -> IndexView:
        """Returns the present moment. Free; holds no resource beyond memory."""
        return self._view

    @property
    def dimension(self) -> int:
        """D."""
        return self._view.dimension

    @property
    def generation(self) -> int:
        """Grows when rows are numbered anew; see `IndexView`."""
        return self._view.generation

    @property
    def version(self) -> int:
        """Grows by one with every write."""
        return self._view.version

    def __len__(self) -> int:
        return len(self._view)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._view)

    def __contains__(self, item_id: ItemId) -> bool:
        return item_id in self._view

    def upsert(self, items: Sequence[Item], vectors: FloatArray) -> None:
        """Adds items or replaces those of the same id, all or none. The next search sees them.

        Args:
            items: n items. Of two with one id, the later counts.
            vectors: (n, D), finite; copied.

        Raises:
            InvalidFieldError: n differs, or a vector has another length or is not finite. Nothing was written.
        """
        if not items and not np.size(vectors):
            return
        array = checked_vectors("vectors", vectors, self.dimension)
        if len(array) != len(items):
            raise InvalidFieldError("vectors", f"has {len(array)} rows for {len(items)} items; send one each")
        last = {item.item_id: position for position, item in enumerate(items)}
        if len(last) < len(items):
            keep = sorted(last.values())
            items, array = [items[position] for position in keep], array[keep]
        with self._writing:
            self._append(items, array)

    def _append(self, items: Sequence[Item], vectors: FloatArray) -> None:
        view = self._view
        slots = np.arange(view.slots, view.slots + len(items), dtype=np.int32)
        rows = np.empty(len(items), np.int32)
        for place, item in enumerate(items):
            row = view.row_by_id.setdefault(item.item_id, len(view.row_ids))
            if row == len(view.row_ids):
                view.row_ids.append(item.item_id)
            rows[place] = row
        view.store.append(items, vectors, rows)
        slot_of = np.full(len(view.row_ids), -1, np.int32)
        slot_of[: view.rows] = view.slot_of
        alive = np.ones(view.slots + len(items), np.bool_)
        alive[: view.slots] = view.alive
        replaced = slot_of[rows]
        alive[replaced[replaced >= 0]] = False
        slot_of[rows] = slots
        self._publish(view, slots=len(alive), slot_of=slot_of, alive=alive)

    def delete(self, ids: Sequence[ItemId]) -> int:
        """Removes items. The next search does not see them. Returns how many were here."""
        with self._writing:
            view = self._view
            rows = np.unique(view.rows_of(ids))
            rows = rows[rows >= 0]
            if len(rows):
                slot_of, alive = view.slot_of.copy(), view.alive.copy()
                alive[slot_of[rows]] = False
                slot_of[rows] = -1
                self._publish(view, slots=view.slots, slot_of=slot_of, alive=alive)
            return len(rows)

    def _publish(self, view: IndexView, *, slots: int, slot_of: NDArray[np.int32], alive: BoolArray) -> None:
        self._view = replace(view, version=view.version + 1, slots=slots, slot_of=slot_of, alive=alive)
        self._start_work()

    def _start_work(self) -> None:
        """Starts the thread if work is due and none runs. Called with writes held off."""
        if self._background and self._worker is None and due(self._view, self._limits, failed_at=self._failed_at) is not Work.NOTHING:
            self._worker = threading.Thread(target=self._maintain_all, name="index-maintenance", daemon=True)
            self._worker.start()

    def _maintain_all(self) -> None:
        """Works until nothing is due. The check that ends it holds off writes, so none slips between it and the thread's end."""
        step_back()
        try:
            while True:
                self.maintain()
                with self._writing:
                    if due(self._view, self._limits, failed_at=self._failed_at) is Work.NOTHING:
                        self._worker = None
                        return
        except (RuntimeError, MemoryError):  # what FAISS and numpy raise
            _LOG.exception("index maintenance failed; searches stay right, and slow down with every write until it succeeds")
            with self._writing:
                self._worker = None

    def maintain(self) -> None:
        """Does the most pressing work, if any, on this thread: seconds to minutes, while searches and writes go on."""
        with self._maintaining:
            view = self._view
            match due(view, self._limits, failed_at=self._failed_at):
                case Work.COMPACT:
                    done = compacted(view, self._limits)
                    with self._writing:
                        self._view = caught_up(done, self._view)
                case Work.LEARN:
                    codes = learned(view)
                    self._failed_at = 0 if codes else view.slots
                    if codes is None:
                        _LOG.warning("no codes reach the promised recall on these vectors; every search stays exact", slots=view.slots)
                    with self._writing:
                        self._view = replace(self._view, codes=codes)
                case Work.EXTEND:
                    codes = extended(view)
                    with self._writing:
                        self._view = replace(self._view, codes=codes)
                case Work.NOTHING:
                    pass

    def settle(self) -> None:
        """Waits until no work goes on in the background."""
        while worker := self._worker:
            worker.join()

    async def search(self, queries: FloatArray, k: int, *, where: Where = None) -> SearchResult:
        """Returns the k best rows for each query; see `IndexView.search_now`.

        Runs off the event loop, on the view of the moment of the call.
        """
        call = partial(self._view.search_now, queries, k, where=where)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def nearest(self, view: IndexView, query: FloatArray, k: int, *, where: Where = None) -> IntArray:
        """Returns the rows of a view nearest to one query, (D,), in no order; see `IndexView.nearest`.

        On the event loop where that takes about a millisecond, else beside it; together with the searches of other requests.

        Raises:
            InvalidFieldError: See `IndexView.search_now`.
        """
        short = view.codes is None and view.slots * view.dimension <= _INLINE_NUMBERS
        return await self._gathering.nearest(view, Ask(query, k, where), short=short)

    def search_now(self, queries: FloatArray, k: int, *, where: Where = None) -> SearchResult:
        """Returns the k best rows for each query, on this thread; see `IndexView.search_now`."""
        return self._view.search_now(queries, k, where=where)

    def rows_of(self, ids: Sequence[ItemId]) -> IntArray:
        """Returns each id's row, (n,); -1 for an item that is not here."""
        return self._view.rows_of(ids)

    def ids(self, rows: Sequence[int] | IntArray) -> list[ItemId]:
        """Returns the ids of rows."""
        return self._view.ids(rows)

    def item(self, item_id: ItemId) -> Item | None:
        """Returns an item by id, or None."""
        return self._view.item(item_id)

    def vectors(self, rows: Sequence[int] | IntArray) -> FloatArray:
        """Returns a copy of the vectors of live rows, (n, D)."""
        return self._view.vectors(rows)

    def mask(self, where: Filter) -> BoolArray:
        """Returns which rows pass a filter, (N,)."""
        return self._view.mask(where)
