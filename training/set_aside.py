"""Large arrays that wait: on disk, where the kernel can drop their pages while something else needs the memory."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST_BYTES = 2**29


def set_aside(array: NDArray[Any], *, least_bytes: int = _LEAST_BYTES) -> NDArray[Any]:
    """Returns the array, read-only and mapped from a nameless temporary file if it takes at least `least_bytes`.

    The file is in `$TMPDIR`, which should be no memory disk, and goes with the last reference.

    Raises:
        OSError: The folder lacks the room.
    """
    if array.nbytes < least_bytes:
        return array
    with tempfile.TemporaryFile() as file:
        np.ascontiguousarray(array).tofile(file)
        file.flush()
        return np.memmap(file, array.dtype, mode="r", shape=array.shape)
