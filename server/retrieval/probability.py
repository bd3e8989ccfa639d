"""From what each candidate is worth to the probability that it is chosen among them.

Shapes: C candidates.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]


def shares(values: FloatArray) -> FloatArray:
    """Returns each value's share in the sum of all, float32, (C,); zeros where nothing is worth anything.

    Who has to choose among a part of what there is does so in the old proportions. So this holds whatever a filter or a caller left.

    Args:
        values: float32, (C,), finite and >= 0.

    Source: R. D. Luce, Individual Choice Behavior, 1959.
    """
    total = values.sum(dtype=np.float64)
    return np.asarray(values / total, np.float32) if total > 0 else np.zeros_like(values)
