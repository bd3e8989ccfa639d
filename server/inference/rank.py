"""Candidates' features to scores, with a bundle's ranker.

Shapes: B candidates, F features in the order of `server.domain.ranking.RANKER_FEATURES`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.inference.contract import RANKER
from server.inference.router import Router

MAX_ROWS = 4096
"""Candidates of one model call: `max_batch_size` of model_repository/ranker."""


class RankerScores(NamedTuple):
    """Scores of one request's candidates."""

    scores: NDArray[np.float32]
    """(B,), larger is better."""
    values: NDArray[np.float32]
    """(B,), in [0, 1]: what the model calls `probability`. The share in the sum over a request's candidates is one."""
    runtime: str
    """`triton` or `local`; empty when there was nothing to score."""


class Ranker:
    """Scores candidates with a bundle's ranker, a model of a router that `load` put there."""

    def __init__(self, router: Router) -> None:
        self._router = router

    @staticmethod
    def model_name(bundle_id: str) -> str:
        """Returns the name a bundle's ranker is loaded under."""
        return f"{RANKER.name}-{bundle_id}"

    async def load(self, model_name: str, onnx: bytes | Path) -> None:
        """Makes a ranker answer under `model_name`, on every runtime.

        Raises:
            CorruptDataError: `onnx` is no ranker.
            UnavailableError: No runtime takes it.
        """
        await self._router.load(model_name, RANKER, onnx)

    async def unload(self, model_name: str) -> None:
        """Frees a ranker. An unknown name is no error."""
        await self._router.unload(model_name)

    async def score(self, model_name: str, features: NDArray[np.float32], *, deadline: float) -> RankerScores:
        """Returns a score and a value for each candidate.

        Args:
            model_name: As given to `load`.
            features: float32, (B, F), finite. B may be 0.
            deadline: time.monotonic() by which the answer is wanted.

        Raises:
            InvalidFieldError: `features` has another shape or type, or holds NaN.
            NotFoundError: No such ranker is loaded.
            DeadlineExceededError: The deadline passed.
            UnavailableError: No runtime works.
        """
        scores: list[NDArray[np.float32]] = []
        values: list[NDArray[np.float32]] = []
        runtimes: set[str] = set()
        for start in range(0, len(features), MAX_ROWS):
            rows = {"features": features[start : start + MAX_ROWS]}
            outputs, runtime = await self._router.infer(model_name, RANKER, rows, deadline=deadline)
            scores.append(outputs["scores"])
            values.append(outputs["probability"])
            runtimes.add(runtime)
        return RankerScores(_joined(scores), _joined(values), "+".join(sorted(runtimes)))


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
