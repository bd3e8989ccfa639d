from __future__ import annotations

import numpy as np
import pytest

from training.set_aside import set_aside


def test_a_large_array_is_the_same_and_read_only() -> None:
    """What is set aside has the same numbers and cannot be changed; the small is returned as it is."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    aside = set_aside(array, least_bytes=1)
    np.testing.assert_array_equal(aside, array)
    with pytest.raises(ValueError, match="read-only"):
        aside[0] = 1
    assert set_aside(array) is array
