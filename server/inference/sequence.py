"""A user's last events to the sequential view, with a bundle's transformer.

Shapes: B histories, T events of the longest, H events of one, D = 384 dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.profiles import HISTORY_LIMIT
from server.domain.ranking import VIEW_DIMENSIONS
from server.inference.contract import SEQUENCE_ACTIONS, SEQUENCE_ENCODER, SEQUENCE_GAPS
from server.inference.router import Router

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

OTHER_ACTION = 1
"""An event type that training did not know, or knew too seldom. 0 is padding."""


NAMED_ACTIONS = SEQUENCE_ACTIONS - 2
"""Event types that can have a number of their own."""


class EncodedHistory(NamedTuple):
    """One history as the encoder reads it, oldest first. H >= 1; past `HISTORY_LIMIT` only the newest count."""

    item_vectors: FloatArray
    """float32, (H, D), the items' sequential vectors."""
    actions: IntArray
    """(H,), from `action_rows`."""
    times_s: NDArray[np.float64]
    """(H,), epoch seconds."""


class SequenceVector(NamedTuple):
    """The sequential view of one user."""

    vector: FloatArray
    """(D,): its product with an item's vector is the logarithm of the chance that the item comes next, up to a constant a user."""
    runtime: str
    """`triton` or `local`."""


class SequenceEncoder:
    """Encodes histories with a bundle's encoder, a model of a router that `load` put there."""

    def __init__(self, router: Router) -> None:
        self._router = router

    @staticmethod
    def model_name(bundle_id: str) -> str:
        """Returns the name a bundle's encoder is loaded under."""
        return f"{SEQUENCE_ENCODER.name}-{bundle_id}"

    async def load(self, model_name: str, onnx: bytes | Path) -> None:
        """Makes an encoder answer under `model_name`, on every runtime.

        Raises:
            CorruptDataError: `onnx` is no sequence encoder.
            UnavailableError: No runtime takes it.
        """
        await self._router.load(model_name, SEQUENCE_ENCODER, onnx)

    async def unload(self, model_name: str) -> None:
        """Frees an encoder. An unknown name is no error."""
        await self._router.unload(model_name)

    async def encode(self, model_name: str, history: EncodedHistory, *, deadline: float) -> SequenceVector:
        """Returns the vector of one history.

        Args:
            model_name: As given to `load`.
            history: Whose.
            deadline: time.monotonic() by which the answer is wanted.

        Raises:
            NotFoundError: No such encoder is loaded.
            DeadlineExceededError: The deadline passed.
            UnavailableError: No runtime works.
        """
        outputs, runtime = await self._router.infer(model_name, SEQUENCE_ENCODER, sequence_inputs([history]), deadline=deadline)
        return SequenceVector(outputs["vector"][0], runtime)


def sequence_inputs(histories: Sequence[EncodedHistory]) -> dict[str, NDArray[Any]]:
    """Returns the encoder's input for histories side by side, padded to the longest."""
    longest = min(max(len(history.actions) for history in histories), HISTORY_LIMIT)
    items = np.zeros((len(histories), longest, VIEW_DIMENSIONS), np.float32)  # (B, T, D)
    actions, gaps = np.zeros((len(histories), longest), np.int64), np.zeros((len(histories), longest), np.int64)
    for row, history in enumerate(histories):
        times = history.times_s[-longest:]
        items[row, : len(times)] = history.item_vectors[-longest:]
        actions[row, : len(times)] = history.actions[-longest:]
        gaps[row, : len(times)] = gap_buckets(np.diff(times, prepend=times[:1]))
    return {"items": items, "actions": actions, "gaps": gaps}


def action_rows(event_types: Sequence[str], known: Mapping[str, int]) -> IntArray:
    """Returns the network's number of each event type, (H,); `OTHER_ACTION` for one that `known` does not name."""
    return np.fromiter((known.get(kind, OTHER_ACTION) for kind in event_types), np.int64, len(event_types))


def known_actions(event_types: Sequence[str]) -> dict[str, int]:
    """Returns event type -> number for the types a bundle names; those past `NAMED_ACTIONS` have none."""
    return {kind: number for number, kind in enumerate(event_types[:NAMED_ACTIONS], start=OTHER_ACTION + 1)}


def gap_buckets(gaps_s: NDArray[np.float64]) -> IntArray:
    """Returns buckets of time gaps: 0 for none, then one for each doubling of seconds, in [0, `SEQUENCE_GAPS`)."""
    seconds = np.maximum(gaps_s, 0.0)
    return np.asarray(np.minimum(np.ceil(np.log2(1.0 + seconds)), SEQUENCE_GAPS - 1), np.int64)
