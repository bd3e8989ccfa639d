"""What an index needs doing behind the searches' back, and how: learning codes, extending them, dropping dead slots.

Nothing here changes a view or a store that is in use; each function returns what to put in its place.

Shapes: N rows, S slots, D embedding dimensions.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from server.domain import ItemId
from server.retrieval import tuner
from server.retrieval.nearest import CodeIndex
from server.retrieval.slots import SlotStore
from server.retrieval.vector_rows import IntArray
from server.retrieval.view import IndexView

_BLOCK = 256
"""Slots copied at once while compacting: some two milliseconds of Python, less than the interpreter lets a thread keep others waiting."""
_PAUSE_S = 0.001
"""Between blocks, so that searches get the interpreter."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When work is due. The defaults keep one search of one query near 1 ms on one core."""

    exact_slots: int = 50_000
    """Up to here, and up to `exact_numbers`, every search scores all vectors."""
    exact_numbers: int = 8_000_000
    """S x D up to which searches stay exact: 32 MB read a search."""
    packed_numbers: int = 64_000_000
    """S x D from which vectors are kept in 16 bits a number: 256 MB in 32."""
    tail_numbers: int = 1_000_000
    """Newly written S x D that searches score exactly before codes are extended."""
    dead_slots: int = 1024
    """Dead slots kept before they are dropped; or half as many as live ones, if that is more."""


class Work(enum.Enum):
    """What is due."""

    NOTHING = "nothing"
    COMPACT = "compact"
    LEARN = "learn"
    EXTEND = "extend"


def due(view: IndexView, limits: Limits, *, failed_at: int) -> Work:
    """Returns the most pressing work.

    Args:
        view: The present.
        limits: When it is due.
        failed_at: Slots there were when learning reached no sufficient recall, or 0; it is tried again at twice as many.
    """
    live, dimension = len(view), view.dimension
    if view.slots - live > max(limits.dead_slots, live // 2):
        return Work.COMPACT
    large = view.slots > limits.exact_slots or view.slots * dimension > limits.exact_numbers
    if view.codes is None:
        return Work.LEARN if large and view.slots >= 2 * failed_at and live else Work.NOTHING
    if view.slots >= 2 * view.codes.trained_on:
        return Work.LEARN
    tail = (view.slots - view.codes.size) * dimension
    return Work.EXTEND if tail > limits.tail_numbers else Work.NOTHING


def learned(view: IndexView) -> CodeIndex | None:
    """Returns codes for the view's slots, or None where exact search has to stay. Takes seconds to minutes."""
    return tuner.build(view.store.vectors, view.alive, view.store.recent_queries())


def extended(view: IndexView) -> CodeIndex:
    """Returns the view's codes grown to all its slots. Takes milliseconds a thousand slots."""
    assert view.codes is not None
    return view.codes.extended(view.store.vectors, view.slots)


@dataclass(frozen=True, slots=True)
class Compaction:
    """A store with only the live slots of a view, and where they went."""

    store: SlotStore
    slots: int
    """Slots of the old store that are carried over or dropped; later ones are still to follow."""
    moved: NDArray[np.int32]
    """Old slot -> new slot, -1 for a dropped one, (slots,)."""
    renumber: bool
    """Whether rows are numbered anew."""
    codes: CodeIndex | None
    """Codes of the store's slots, if there were codes before."""


def compacted(view: IndexView, limits: Limits) -> Compaction:
    """Returns the live slots of a view in a store of their own. Rows are numbered anew when more are dead than live."""
    live = np.flatnonzero(view.alive)
    renumber = view.rows - len(live) > max(limits.dead_slots, len(live))
    store = SlotStore(view.dimension, capacity=max(64, len(live)), packed_numbers=limits.packed_numbers)
    for first in range(0, len(live), _BLOCK):
        block = live[first : first + _BLOCK]
        rows = np.arange(first, first + len(block), dtype=np.int32) if renumber else view.store.rows[block]
        store.append([view.store.columns.items[slot] for slot in block.tolist()], view.store.vectors.take(block), rows)
        time.sleep(_PAUSE_S)
    moved = np.full(view.slots, -1, np.int32)
    moved[live] = np.arange(len(live), dtype=np.int32)
    codes = view.codes.over(store.vectors, store.size) if view.codes and len(live) else None
    return Compaction(store, view.slots, moved, renumber, codes)


def caught_up(done: Compaction, now: IndexView) -> IndexView:
    """Returns the present on the compacted store: what was written since `compacted` is carried over. Called with writes held off."""
    late = done.slots + np.flatnonzero(now.alive[done.slots :])
    row_ids, row_by_id, new_rows = _numbering(done, now, late)
    moved = np.concatenate([done.moved, np.full(now.slots - done.slots, -1, np.int32)])
    moved[late] = done.store.size + np.arange(len(late), dtype=np.int32)
    done.store.append([now.store.columns.items[slot] for slot in late.tolist()], now.store.vectors.take(late), new_rows)
    slot_of = np.full(len(row_ids) if done.renumber else now.rows, -1, np.int32)
    slots = moved[now.slot_of[now.live]]
    slot_of[done.store.rows[slots]] = slots
    alive = np.zeros(done.store.size, np.bool_)
    alive[slots] = True
    return replace(
        now,
        store=done.store,
        generation=now.generation + done.renumber,
        slots=done.store.size,
        slot_of=slot_of,
        alive=alive,
        row_ids=row_ids,
        row_by_id=row_by_id,
        codes=done.codes,
    )


def _numbering(done: Compaction, now: IndexView, late: IntArray) -> tuple[list[ItemId], dict[ItemId, int], NDArray[np.int32]]:
    """Returns row -> id, id -> row, and the rows of the late slots."""
    old_rows: NDArray[np.int32] = now.store.rows[late]
    if not done.renumber:
        return now.row_ids, now.row_by_id, old_rows
    row_ids = [item.item_id for item in done.store.columns.items]
    row_by_id = {item_id: row for row, item_id in enumerate(row_ids)}
    new_rows = np.empty(len(late), np.int32)
    for place, row in enumerate(old_rows.tolist()):
        item_id = now.row_ids[row]
        new_rows[place] = row_by_id.setdefault(item_id, len(row_ids))
        if new_rows[place] == len(row_ids):
            row_ids.append(item_id)
    return row_ids, row_by_id, new_rows
