"""Which vectors are probably the nearest: FAISS over compressed codes, calibrated against exact search before it serves.

Codes are 4-bit product quantization of 4 dimensions each (D / 8 bytes a vector; finer where that is too coarse) in inverted lists,
scanned with SIMD; the caller scores the survivors exactly. How many lists to probe and how many survivors to ask for is measured when the
codes are learned, on recent queries, so that recall@100 is at least `TARGET_RECALL` on this very data; where views are unrelated, that is
every list. Where even that misses, `build` gives none and the caller stays exact.

Shapes: B queries, S slots, D embedding dimensions, F survivors.

Source: F. André et al., Quicker ADC, TPAMI 43 (2021), 1666-1677, as in FAISS's IndexIVFPQFastScan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np

from server.retrieval.gpu import GpuScan, gpu_scan
from server.retrieval.scan import BoolArray, FloatArray, IntArray

TARGET_RECALL = 0.985
"""Mean recall@100 that calibration asks for; 0.98 is promised."""

_SUBSPACES = (4, 2, 1)
"""Dimensions that share a code, tried in this order: few dimensions or dense clusters need finer codes."""
_LIST_SIZE = 512
_MAX_LISTS = 4096
_SAMPLE_PER_LIST = 64
_MIN_SAMPLE = 8192
_MIN_LEARNABLE = 256
_ADDED_AT_ONCE = 65_536
_DEPTH = 100
_MIN_SURVIVORS = 256
_PROBED_SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
_EXPANSIONS = (3, 4, 6, 8, 16)


@dataclass(frozen=True, eq=False)
class CodeIndex:
    """Compressed codes of slots [0, size), dead ones included. Immutable: growth makes a copy."""

    codes: Any
    """`faiss.IndexIVFPQFastScan`; its ids are slots."""
    dimension: int
    probes: int
    """Lists probed for 100 unfiltered results."""
    expansion: int
    """Survivors asked for, per result."""
    trained_on: int
    """Slots there were when lists and codebooks were learned."""
    gpu: GpuScan | None = None
    """The vectors themselves on a GPU, asked first."""

    @property
    def size(self) -> int:
        """Slots covered."""
        return int(self.codes.ntotal)

    @property
    def lists(self) -> int:
        """Inverted lists."""
        return int(self.codes.nlist)

    def search(self, queries: FloatArray, k: int, allowed: BoolArray | None, share: float) -> list[IntArray]:
        """Returns, for each query, slots that hold nearly all of its k best, in no order.

        Args:
            queries: (B, D).
            k: Results wanted.
            allowed: (size,), or None for all. Applied inside the scan.
            share: Part of the slots that is allowed, in (0, 1]. Fewer allowed slots lie further apart, so more lists are probed.
        """
        if self.gpu is not None:
            found = self.gpu.search(queries, k, np.ones(self.size, np.bool_) if allowed is None else allowed, share)
            if found is not None:
                return found
        return self._scanned(queries, k, allowed, share)

    def _scanned(self, queries: FloatArray, k: int, allowed: BoolArray | None, share: float) -> list[IntArray]:
        faiss.omp_set_num_threads(1)  # holds for the calling thread only
        probes = min(self.lists, int(np.ceil(self.probes * max(1.0, k / _DEPTH) / share)))
        survivors = min(self.size, max(_MIN_SURVIVORS, self.expansion * k))
        if allowed is None:
            found = self._search(queries, survivors, _parameters(nprobe=probes))
        else:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
            found = self._search(queries, survivors, _parameters(nprobe=probes, sel=selector))
        return [row[row >= 0] for row in found]

    def _search(self, queries: FloatArray, survivors: int, parameters: Any) -> IntArray:
        found: IntArray = self.codes.search(_padded(queries, self.codes.d), survivors, params=parameters)[1]
        return found

    def extended(self, vectors: FloatArray) -> CodeIndex:
        """Returns a copy that also covers the next slots, (n, D), with the lists and codebooks learned before."""
        faiss.omp_set_num_threads(1)
        codes = faiss.clone_index(self.codes)
        codes.add(_padded(vectors, codes.d))
        if self.gpu is not None:
            self.gpu.extend(vectors)
        return replace(self, codes=codes)

    def over(self, vectors: FloatArray) -> CodeIndex:
        """Returns codes for other slots, (S, D), with the lists and codebooks learned before."""
        faiss.omp_set_num_threads(1)
        codes = faiss.clone_index(self.codes)
        codes.reset()
        for first in range(0, len(vectors), _ADDED_AT_ONCE):
            codes.add(_padded(vectors[first : first + _ADDED_AT_ONCE], codes.d))
        return replace(self, codes=codes).on_gpu(vectors)

    def on_gpu(self, vectors: FloatArray) -> CodeIndex:
        """Returns itself with all slots' vectors, (size, D), on the GPU if there is one."""
        gpu = gpu_scan(self.dimension)
        for first in range(0, len(vectors) if gpu else 0, _ADDED_AT_ONCE):
            assert gpu is not None
            gpu.extend(vectors[first : first + _ADDED_AT_ONCE])
        return replace(self, gpu=gpu)

    def to_bytes(self) -> bytes:
        """Returns the codes in FAISS's own format."""
        return bytes(faiss.serialize_index(self.codes))


def build(vectors: FloatArray, alive: BoolArray, queries: FloatArray, *, seed: int = 0) -> CodeIndex | None:
    """Returns codes for all slots, calibrated on live ones, or None where no setting reaches `TARGET_RECALL` or too few live to learn from.

    Takes about 5 s for 20,000 vectors of 1536 and 15 s for 100,000, on one thread.

    Args:
        vectors: (S, D).
        alive: (S,).
        queries: (B, D), to calibrate on. With fewer than 32, ones are made up: items, and means of several items.
        seed: Of the samples drawn.
    """
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(seed)
    live = np.flatnonzero(alive)
    if len(live) < _MIN_LEARNABLE:
        return None
    lists = int(np.clip(len(live) // _LIST_SIZE, 1, _MAX_LISTS))
    sample = rng.choice(live, min(len(live), max(_MIN_SAMPLE, _SAMPLE_PER_LIST * lists)), replace=False)
    probes = _probes(vectors, live, queries, rng)
    for subspace in _SUBSPACES:
        codes = _untrained(-(-vectors.shape[1] // subspace) * subspace, lists, subspace)
        codes.train(_padded(vectors[np.sort(sample)], codes.d))
        for first in range(0, len(vectors), _ADDED_AT_ONCE):  # padding copies, so not all at once
            codes.add(_padded(vectors[first : first + _ADDED_AT_ONCE], codes.d))
        calibrated = _calibrated(codes, vectors, alive, probes)
        if calibrated is not None:
            return calibrated.on_gpu(vectors)
    return None


def from_bytes(data: bytes, *, dimension: int, probes: int, expansion: int, trained_on: int) -> CodeIndex:
    """Returns the index that `to_bytes` wrote.

    Raises:
        RuntimeError: The bytes are no such index.
    """
    codes = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    if not isinstance(codes, faiss.IndexIVFPQFastScan) or not dimension <= codes.d < dimension + _SUBSPACES[0]:
        raise RuntimeError("these bytes hold another kind of index")
    return CodeIndex(codes, dimension, probes, expansion, trained_on)


def _parameters(**settings: object) -> Any:
    make: Any = faiss.SearchParametersIVF  # its stub omits the settings
    return make(**settings)


def _untrained(dimension: int, lists: int, subspace: int) -> Any:
    quantizer: Any = faiss.IndexFlatIP(dimension)
    codes = faiss.IndexIVFPQFastScan(quantizer, dimension, lists, dimension // subspace, 4, faiss.METRIC_INNER_PRODUCT)
    quantizer.this.disown()
    codes.own_fields = True
    codes.by_residual = False
    codes.cp.spherical = True  # by direction: otherwise the longest centroids draw everything
    codes.cp.niter = 8
    codes.cp.min_points_per_centroid = 1
    codes.pq.cp.niter = 6
    codes.pq.cp.max_points_per_centroid = _MIN_SAMPLE // 16
    codes.pq.cp.min_points_per_centroid = 1
    return codes


def _probes(vectors: FloatArray, live: IntArray, queries: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Returns queries to calibrate on, (at most 64, D)."""
    if len(queries) >= 32:
        return queries[-64:]
    items = vectors[rng.choice(live, 16)]
    means = vectors[rng.choice(live, (48, 8))].mean(axis=1)
    return np.concatenate([items, means])


def _calibrated(codes: Any, vectors: FloatArray, alive: BoolArray, queries: FloatArray) -> CodeIndex | None:
    """Returns the cheapest setting that reaches the target: fewest lists first, then fewest survivors."""
    depth = min(_DEPTH, int(np.count_nonzero(alive)))
    scores = queries @ vectors.T  # (B, S)
    scores[:, ~alive] = -np.inf
    least = -np.partition(-scores, depth - 1, axis=1)[:, depth - 1]  # (B,): any slot this good is right, so equal vectors may swap
    allowed = None if alive.all() else alive

    def recall(probes: int, expansion: int) -> float:
        trial = CodeIndex(codes, vectors.shape[1], probes, expansion, len(vectors))
        found = trial.search(queries, depth, allowed, 1.0)
        right = [min(depth, int((row[got] >= low).sum())) for row, got, low in zip(scores, found, least, strict=True)]
        return float(np.mean(right)) / depth

    for share in _PROBED_SHARES:
        probes = max(1, int(np.ceil(share * codes.nlist)))
        if recall(probes, _EXPANSIONS[-1]) >= TARGET_RECALL:
            expansion = next(one for one in _EXPANSIONS if one == _EXPANSIONS[-1] or recall(probes, one) >= TARGET_RECALL)
            return CodeIndex(codes, vectors.shape[1], probes, expansion, len(vectors))
    return None


def _padded(vectors: FloatArray, dimension: int) -> FloatArray:
    """Returns vectors with zeros appended up to a dimension of whole subspaces."""
    missing = dimension - vectors.shape[1]
    return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, missing))) if missing else vectors)
