"""Which vectors are probably the nearest: FAISS over compressed codes of a short form, which `tuner` chose and measured.

A vector is shortened (`prefix`), coded with 4 bits for every few numbers or 8 bits for each, and put in an inverted list; lists are scanned
with SIMD, and the caller scores the survivors exactly, from the whole vectors.

**Filters.** A filter is a bitmap inside the scan. Lists are taken in the order in which the query likes them, those without an allowed
member left out, until they hold the share of all *allowed* members that the setting asks for: a filter that keeps only what lies far from
the query opens far lists, and one that keeps little opens many.

Shapes: B queries, S slots, D embedding dimensions, P dimensions of the short form, L inverted lists, F survivors.

Source: F. André et al., Quicker ADC, TPAMI 43 (2021), 1666-1677, as in FAISS's IndexIVFPQFastScan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from server.retrieval.gpu import GpuScan, gpu_scan
from server.retrieval.prefix import Prefix
from server.retrieval.scan import BoolArray
from server.retrieval.vector_rows import FloatArray, IntArray, VectorRows

DEPTH = 100
"""Results that settings are measured for; more are searched for in proportion."""

_LEAST_SURVIVORS = 256
_ADDED_AT_ONCE = 16_384
_COUNTED = 262_144
"""Slots that are looked at to count allowed ones list by list; of more, every second, third …"""
_MERGE_SHARE = 8
"""Codes added since the last merge, to all: one in so many, before they are put into the large lists."""

_SCANNED_BYTES_US = 6500.0
_SCORED_NUMBERS_US = 2000.0
"""What a core of 2023 scans of codes and scores of vectors in a microsecond: only their relation matters, and it moves little."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How much of an index is looked at; chosen by measurement, see `tuner`."""

    probed: float
    """Share of the members whose lists are scanned for 100 unfiltered results, in (0, 1]."""
    expansion: int
    """Survivors asked for, per result."""
    spread: float
    """Under a filter that keeps the share f, `spread / f` times as much is scanned."""

    def scanned(self, k: int, share: float) -> float:
        """Returns the share of the allowed members that is scanned for k results under a filter that keeps `share` in (0, 1]."""
        return min(1.0, self.probed * max(1.0, k / DEPTH) * (self.spread / share if share < 1 else 1.0))

    def survivors(self, k: int) -> int:
        """Returns F for k results."""
        return max(_LEAST_SURVIVORS, self.expansion * k)


@dataclass(frozen=True, eq=False)
class CodeIndex:
    """Compressed codes of slots [0, size), dead ones included. Immutable: growth makes another one, which shares the large part."""

    prefix: Prefix
    empty: Any
    """`faiss.IndexIVFPQFastScan` or `IndexIVFScalarQuantizer` with lists and codebooks, without codes."""
    base: Any
    """The same with the codes of slots [0, base.ntotal); ids are slots."""
    fresh: Any
    """The same with the codes of slots [base.ntotal, size)."""
    centres: FloatArray
    """(L, P): what each list is about."""
    list_of: NDArray[np.uint16]
    """(size,): each slot's list."""
    setting: Setting
    trained_on: int
    """Slots there were when lists and codebooks were learned."""
    gpu: GpuScan | None = None
    """The vectors themselves on a GPU, asked first."""

    @classmethod
    def of(cls, prefix: Prefix, empty: Any, setting: Setting, rows: VectorRows, size: int) -> CodeIndex:
        """Returns the codes of slots [0, size). Takes 30 s for a million slots with 256 short dimensions, on one thread."""
        centres = np.ascontiguousarray(empty.quantizer.reconstruct_n(0, int(empty.nlist)))
        base = faiss.clone_index(empty)
        fresh = faiss.clone_index(empty)
        list_of = _add(base, prefix, rows, 0, size)
        return cls(prefix, empty, base, fresh, centres, list_of, setting, size)

    @property
    def dimension(self) -> int:
        """D."""
        return self.prefix.source

    @property
    def size(self) -> int:
        """Slots covered."""
        return len(self.list_of)

    @property
    def lists(self) -> int:
        """L."""
        return len(self.centres)

    @property
    def slot_bytes(self) -> float:
        """Bytes a slot takes: code, id and list."""
        return float(self.base.code_size) + 8 + self.list_of.itemsize

    def cost_us(self, setting: Setting, k: int, share: float = 1.0) -> float:
        """Returns about how long one search for k results takes under a filter that keeps `share`, in microseconds."""
        scanned = setting.scanned(k, share) * self.size * float(self.base.code_size)
        scored = min(share * self.size, setting.survivors(k)) * self.dimension
        return scanned / _SCANNED_BYTES_US + scored / _SCORED_NUMBERS_US

    def pays(self, k: int, count: int) -> bool:
        """Returns whether a search for k of `count` allowed slots costs less than to score all of these one by one."""
        return self.cost_us(self.setting, k, count / self.size) < count * self.dimension / _SCORED_NUMBERS_US

    def search(self, queries: FloatArray, k: int, allowed: BoolArray | None, share: float) -> list[IntArray]:
        """Returns, for each query, slots that hold nearly all of its k best, in no order.

        Args:
            queries: (B, D).
            k: Results wanted.
            allowed: (size,), or None for all. Applied inside the scan.
            share: Part of the slots that is allowed, in (0, 1].
        """
        if self.gpu is not None:
            found = self.gpu.search(queries, k, np.ones(self.size, np.bool_) if allowed is None else allowed, share)
            if found is not None:
                return found
        count, scanned = self.setting.survivors(k), self.setting.scanned(k, share)
        return [slots for slots, _ in self.survivors(queries, count, allowed, scanned)]

    def survivors(self, queries: FloatArray, count: int, allowed: BoolArray | None, scanned: float) -> list[tuple[IntArray, FloatArray]]:
        """Returns, for each query, at most `count` slots with the best codes, the best first, and what the codes say of their scores.

        Args:
            queries: (B, D).
            count: F.
            allowed: (size,), or None for all.
            scanned: Share of the allowed members whose lists are scanned, in (0, 1].
        """
        faiss.omp_set_num_threads(1)  # holds for the calling thread only
        short = self.prefix.queries(queries)
        lists = self._chosen(short, allowed, scanned)
        selector, bits = None, None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        parameters = _parameters(nprobe=lists.shape[1], sel=selector) if selector else _parameters(nprobe=lists.shape[1])
        parts = [_scan(part, short, min(count, int(part.ntotal)), lists, parameters) for part in (self.base, self.fresh) if part.ntotal]
        scores, slots = (np.concatenate([part[side] for part in parts], axis=1) for side in (0, 1))
        if len(parts) > 1:
            order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            scores, slots = np.take_along_axis(scores, order, axis=1), np.take_along_axis(slots, order, axis=1)
        return [(row[row >= 0], values[row >= 0]) for row, values in zip(slots, scores, strict=True)]

    def _chosen(self, short: FloatArray, allowed: BoolArray | None, scanned: float) -> IntArray:
        """Returns the lists to scan for each query, (B, at most L), -1 where there are fewer."""
        if scanned >= 1 and (allowed is None or self.size > _COUNTED):
            return np.ascontiguousarray(np.broadcast_to(np.arange(self.lists, dtype=np.int64), (len(short), self.lists)))
        members = self._members if allowed is None else self._allowed_members(allowed)
        some = np.flatnonzero(members)
        if scanned >= 1:
            return np.ascontiguousarray(np.broadcast_to(some, (len(short), len(some))))
        wanted = scanned * float(members.sum())
        chosen = []
        for liking in short @ self.centres.T:  # (L,)
            order = some[np.argsort(-liking[some], kind="stable")]
            chosen.append(order[: int(np.searchsorted(np.cumsum(members[order]), wanted)) + 1])
        result = np.full((len(short), max(len(one) for one in chosen)), -1, np.int64)
        for place, one in enumerate(chosen):
            result[place, : len(one)] = one
        return result

    @cached_property
    def _members(self) -> IntArray:
        """How many slots each list has, (L,)."""
        return np.bincount(self.list_of, minlength=self.lists)

    def _allowed_members(self, allowed: BoolArray) -> IntArray:
        """Returns how many allowed slots each list has, (L,), of all slots or of an even sample.

        A list that a sample misses is left out: it has a handful of allowed members at most.
        """
        step = -(-self.size // _COUNTED)
        return np.bincount(self.list_of[::step][allowed[::step]], minlength=self.lists)

    def extended(self, rows: VectorRows, size: int) -> CodeIndex:
        """Returns codes that also cover slots [self.size, size), with the lists and codebooks learned before."""
        if self.gpu is not None:
            self.gpu.extend(rows.part(self.size, size))
        if (size - int(self.base.ntotal)) * _MERGE_SHARE < size:
            fresh = faiss.clone_index(self.fresh)
            list_of = _add(fresh, self.prefix, rows, self.size, size)
            return replace(self, fresh=fresh, list_of=np.concatenate([self.list_of, list_of]))
        base = faiss.clone_index(self.base)
        first = int(base.ntotal)
        list_of = _add(base, self.prefix, rows, first, size)
        return replace(self, base=base, fresh=faiss.clone_index(self.empty), list_of=np.concatenate([self.list_of[:first], list_of]))

    def over(self, rows: VectorRows, size: int) -> CodeIndex:
        """Returns codes for other slots, [0, size), with the lists and codebooks learned before."""
        other = CodeIndex.of(self.prefix, self.empty, self.setting, rows, size)
        return replace(other, trained_on=self.trained_on).on_gpu(rows)

    def on_gpu(self, rows: VectorRows) -> CodeIndex:
        """Returns itself with all its slots' vectors on the GPU if there is one."""
        gpu = gpu_scan(self.dimension)
        for first in range(0, self.size if gpu else 0, _ADDED_AT_ONCE):
            assert gpu is not None
            gpu.extend(rows.part(first, min(first + _ADDED_AT_ONCE, self.size)))
        return replace(self, gpu=gpu)


def from_parts(base: bytes, fresh: bytes, *, prefix: Prefix, list_of: NDArray[np.uint16], setting: Setting, trained_on: int) -> CodeIndex:
    """Returns the index whose `base` and `fresh` FAISS wrote.

    Raises:
        RuntimeError: The bytes are no such indexes, or do not fit each other.
    """
    loaded: Any = faiss.deserialize_index(np.frombuffer(base, np.uint8))
    added: Any = faiss.deserialize_index(np.frombuffer(fresh, np.uint8))
    for codes in (loaded, added):
        if not isinstance(codes, faiss.IndexIVFPQFastScan | faiss.IndexIVFScalarQuantizer) or codes.d != prefix.dimensions:
            raise RuntimeError("these bytes hold another kind of index")
    if loaded.ntotal + added.ntotal != len(list_of):
        raise RuntimeError("codes and lists differ in number")
    empty: Any = faiss.clone_index(added)
    empty.reset()
    centres = np.ascontiguousarray(empty.quantizer.reconstruct_n(0, int(empty.nlist)))
    return CodeIndex(prefix, empty, loaded, added, centres, list_of, setting, trained_on)


def untrained(dimension: int, lists: int, subspace: int) -> Any:
    """Returns an index without lists or codebooks.

    Args:
        dimension: P, a multiple of `subspace`.
        lists: L.
        subspace: Numbers that share 4 bits; 0 gives each number 8 bits.
    """
    quantizer: Any = faiss.IndexFlatIP(dimension)
    codes: Any
    if subspace:
        codes = faiss.IndexIVFPQFastScan(quantizer, dimension, lists, dimension // subspace, 4, faiss.METRIC_INNER_PRODUCT)
        codes.by_residual = False
        codes.pq.cp.niter = 6
        codes.pq.cp.max_points_per_centroid = 512
        codes.pq.cp.min_points_per_centroid = 1
    else:
        kind = faiss.ScalarQuantizer.QT_8bit
        codes = faiss.IndexIVFScalarQuantizer(quantizer, dimension, lists, kind, faiss.METRIC_INNER_PRODUCT, False)  # noqa: FBT003
    quantizer.this.disown()
    codes.own_fields = True
    codes.cp.spherical = True  # by direction: otherwise the longest centroids draw everything
    codes.cp.niter = 8
    codes.cp.min_points_per_centroid = 1
    return codes


def _add(codes: Any, prefix: Prefix, rows: VectorRows, first: int, last: int) -> NDArray[np.uint16]:
    """Adds slots [first, last) and returns their lists, (last - first,)."""
    faiss.omp_set_num_threads(1)
    for start in range(first, last, _ADDED_AT_ONCE):
        stop = min(start + _ADDED_AT_ONCE, last)
        codes.add_with_ids(prefix.items(rows.part(start, stop)), np.arange(start, stop, dtype=np.int64))
    list_of = np.zeros(last - first, np.uint16)
    for number in range(int(codes.nlist)):
        size = codes.invlists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(codes.invlists.get_ids(number), size)
            list_of[ids[ids >= first] - first] = number
    return list_of


def _scan(codes: Any, queries: FloatArray, count: int, lists: IntArray, parameters: Any) -> tuple[FloatArray, IntArray]:
    """Returns scores and ids of the best `count` codes in these lists for each query, (B, count) each; id -1 where there are fewer."""
    scores, ids = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
    unused = np.zeros(lists.shape, np.float32)  # scores of the lists: codes hold whole vectors, not what is left of them
    pointers = [faiss.swig_ptr(array) for array in (lists, unused, scores, ids)]
    codes.search_preassigned_c(len(queries), faiss.swig_ptr(queries), count, *pointers, False, parameters)  # noqa: FBT003
    return scores, ids


def _parameters(**settings: object) -> Any:
    make: Any = faiss.SearchParametersIVF  # its stub omits the settings
    return make(**settings)
