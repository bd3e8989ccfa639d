from __future__ import annotations

import faiss
import numpy as np
import pytest

from server.retrieval.gpu import GpuScan
from server.retrieval.vector_rows import FloatArray


@pytest.fixture(scope="module")
def vectors() -> FloatArray:
    """Returns 5000 vectors."""
    return np.random.default_rng(1).standard_normal((5000, 16)).astype(np.float32)


@pytest.fixture
def scan(vectors: FloatArray) -> GpuScan:
    """Returns the scan over them, on FAISS's flat index for the CPU, which answers as the one for the GPU does."""
    scan = GpuScan(faiss.IndexFlatIP(16))
    scan.extend(vectors[:3000])
    scan.extend(vectors[3000:])
    return scan


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.2])
def test_what_is_allowed_is_found(scan: GpuScan, vectors: FloatArray, keep: float) -> None:
    """The k best allowed slots of those that the caller knows are among those found."""
    rng = np.random.default_rng(2)
    queries = rng.standard_normal((5, 16)).astype(np.float32)
    allowed = rng.random(4000) < keep if keep < 1 else np.ones(4000, np.bool_)
    found = scan.search(queries, 50, allowed, keep * 0.8)
    assert found is not None
    scores = queries @ vectors[:4000].T
    scores[:, ~allowed] = -np.inf
    for row, got in zip(scores, found, strict=True):
        assert allowed[got].all()
        assert set(np.argsort(-row)[:50]) <= set(got)


def test_a_narrow_filter_is_left_to_the_caller(scan: GpuScan) -> None:
    """Where a GPU would have to select too much, or too little allowed was among it, there is no answer instead of a short one."""
    queries = np.ones((1, 16), np.float32)
    one_percent = np.arange(5000) % 100 == 0
    assert scan.search(queries, 50, one_percent, 0.01) is None
    assert scan.search(queries, 40, one_percent, 1.0) is None
