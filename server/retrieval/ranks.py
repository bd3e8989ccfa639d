"""Places of candidates by each source, as features.

Shapes: C candidates, R ranked columns.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]


def reciprocal_ranks(columns: FloatArray) -> FloatArray:
    """Returns 1 / (1 + candidates with a larger value) of each value in its column, float32, (C, R), in (0, 1].

    Equal values share the better place. A column of one value says nothing of its candidates and gives 0.

    Args:
        columns: float32, (C, R), finite.

    Source: for the reciprocal, G. V. Cormack et al., Reciprocal Rank Fusion, SIGIR 2009.
    """
    count = len(columns)
    result = np.zeros(columns.shape, np.float32)
    ordered = np.sort(columns, axis=0)
    for place in range(columns.shape[1] if count else 0):
        values = ordered[:, place]
        if values[0] < values[-1]:
            larger = count - np.searchsorted(values, columns[:, place], side="right")
            result[:, place] = 1 / (1 + larger)
    return result
