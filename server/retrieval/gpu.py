"""All vectors on an NVIDIA GPU, in half precision, where the installed FAISS is built for one.

The GPU takes no filter, so more is asked for and what is not allowed is dropped; when too much would have to be asked for, the caller's
codes on the CPU answer, which filter inside the scan.

Shapes: B queries, S slots, D embedding dimensions, F fetched.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import cache
from typing import Any

import faiss
import numpy as np

from server.retrieval.scan import BoolArray
from server.retrieval.vector_rows import FloatArray, IntArray
from server.telemetry import logger

_LOG = logger(__name__)

_MOST_FETCHED = 2048
"""What FAISS can select on a GPU in one search."""

_SPARE = 1.5
"""How much more is asked for than a filter's share calls for: what is allowed is not spread evenly."""


class GpuScan:
    """A FAISS flat inner-product index used under a lock: GPU resources serve one call at a time. Grows in place.

    Args:
        flat: Empty index of D dimensions: on a GPU in service; any flat one behaves alike.
    """

    def __init__(self, flat: Any) -> None:
        self._flat = flat
        self._using = threading.Lock()

    def extend(self, vectors: FloatArray) -> None:
        """Adds the next slots, (n, D)."""
        with self._using:
            self._flat.add(np.ascontiguousarray(vectors))

    def search(self, queries: FloatArray, k: int, allowed: BoolArray, share: float) -> list[IntArray] | None:
        """Returns, for each query, slots that hold its k best up to half-precision rounding, or None if they were not all found.

        Args:
            queries: (B, D).
            k: Results wanted.
            allowed: (S,); slots beyond, written later, are dropped.
            share: Part of the slots that is allowed, in (0, 1].
        """
        wanted = min(k + k // 4 + 16, int(np.count_nonzero(allowed)))  # rounding may swap neighbours at the end of the list
        fetched = int(np.ceil(wanted * _SPARE / share)) if share < 1 else wanted
        if fetched > _MOST_FETCHED:
            return None
        with self._using:
            found: IntArray = self._flat.search(queries, min(fetched, int(self._flat.ntotal)))[1]
        kept = [row[(row >= 0) & (row < len(allowed))] for row in found]
        kept = [row[allowed[row]] for row in kept]
        enough = min(k, int(np.count_nonzero(allowed)))
        return kept if all(len(row) >= enough for row in kept) else None


_PROBE = """
import faiss, numpy
vectors = numpy.eye(8, dtype="float32")
flat = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, faiss.IndexFlatIP(8))
flat.add(vectors)
assert (flat.search(vectors, 1)[1][:, 0] == range(8)).all()
"""


@cache
def gpu_works() -> bool:
    """Returns whether FAISS can search on a GPU here. Tried in a process of its own, since FAISS ends the one in which a kernel fails."""
    if faiss.get_num_gpus() == 0:
        return False
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        _LOG.warning("this FAISS build cannot use this GPU; the CPU serves", error=done.stderr[-500:])
    return done.returncode == 0


def gpu_scan(dimension: int) -> GpuScan | None:
    """Returns an empty scan on the first GPU, or None where FAISS can use none."""
    if not gpu_works():
        return None
    gpu: Any = faiss  # a build without GPU lacks these names
    resources = gpu.StandardGpuResources()
    config = gpu.GpuIndexFlatConfig()
    config.useFloat16 = True
    flat = gpu.GpuIndexFlatIP(resources, dimension, config)
    flat.referenced_objects = [resources]  # freed with the index, not before
    return GpuScan(flat)
