from __future__ import annotations

import numpy as np
import pytest

from training.cases import best_rows


@pytest.mark.parametrize("size", [5, 40, 1000, 30_000])
@pytest.mark.parametrize("kinds", [None, 3, 2000])
@pytest.mark.parametrize("positive", [1.0, 0.02, 0.0003])
def test_the_best_rows_are_those_of_a_partition_of_all(size: int, kinds: int | None, positive: float) -> None:
    """Of scores all different, of many equal ones and of mostly zeros, few or many, the same rows are taken as by looking at all."""
    generator = np.random.default_rng(size)
    scores = generator.standard_normal(size) if kinds is None else generator.integers(0, kinds, size)
    scores = np.where(generator.random(size) < positive, scores, 0).astype(np.float32)
    expected = np.argpartition(-scores, 10)[:10] if size > 10 else np.arange(size)
    assert sorted(best_rows(scores, 10).tolist()) == sorted(expected.tolist())
