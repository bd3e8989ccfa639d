"""What a model was fitted on, and by what."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from training.data import Interactions

_LIBRARIES = ("numpy", "scipy", "onnx", "onnxruntime", "torch")


def lineage(interactions: Interactions) -> dict[str, Any]:
    """Returns sizes, the range of time, and a hash of the arrays."""
    digest = hashlib.sha256()
    for array in (interactions.users, interactions.items, interactions.times, interactions.weights):
        digest.update(np.ascontiguousarray(array).tobytes())
    times = interactions.times
    return {
        "events": len(times),
        "users": int((np.diff(interactions.starts) > 0).sum()),
        "items": len(np.unique(interactions.items)),
        "first_event_s": float(times.min()) if len(times) else None,
        "last_event_s": float(times.max()) if len(times) else None,
        "sha256": digest.hexdigest(),
    }


def versions() -> dict[str, str]:
    """Returns the version of each library that makes numbers, where it is installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
