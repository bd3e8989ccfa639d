from __future__ import annotations

import faiss
import numpy as np
import pytest

from server.domain import Item, ItemId
from server.retrieval.filters import compile_filter
from server.retrieval.index import ItemIndex
from server.retrieval.maintenance import Limits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="this FAISS sees no NVIDIA GPU"),
]


def test_search_on_the_gpu_equals_exact_search() -> None:
    """An index whose vectors are on the GPU finds what exact search finds, with and without filters, also right after a write."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((200, 384))
    vectors = (centres[rng.integers(0, 200, 20_000)] + 0.5 * rng.standard_normal((20_000, 384))).astype(np.float32)
    items = [Item(item_id=ItemId(f"i{number}"), title="", price=float(number % 100)) for number in range(20_001)]
    on_gpu = ItemIndex(384, limits=Limits(exact_slots=10_000), background=False)
    exact = ItemIndex(384, limits=Limits(exact_numbers=10**12), background=False)
    for index in (on_gpu, exact):
        index.upsert(items[:-1], vectors)
        index.maintain()
        index.upsert(items[-1:], 2 * vectors[:1])
    codes = on_gpu.view().codes
    assert codes is not None
    assert codes.gpu is not None
    queries = vectors[rng.integers(0, 20_000, (20, 4))].mean(axis=1)
    for expression in ("", "price < 50", "price < 1"):
        got, wanted = (index.search_now(queries, 100, where=compile_filter(expression)) for index in (on_gpu, exact))
        assert np.mean([np.isin(one, other).mean() for one, other in zip(wanted.rows, got.rows, strict=True)]) >= 0.98
