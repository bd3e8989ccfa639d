"""Histories to vectors outside the server, by the model and the functions that serve.

Shapes: B histories, N items, D = 384 dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.domain.ranking import VIEW_DIMENSIONS
from server.inference.sequence import EncodedHistory, action_rows, known_actions, sequence_inputs
from server.retrieval.sequence import SequenceSpace
from training.data import History

FloatArray: TypeAlias = NDArray[np.float32]

_TOKENS = 8192
"""Most events of one call, padding included."""


class HistoryEncoder:
    """Encodes histories of rows with one model.

    Args:
        space: The items' side.
        onnx: A model of kind `sequence_encoder`.
        event_types: Behind the rows of `History.kinds`.
    """

    def __init__(self, space: SequenceSpace, onnx: bytes, event_types: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self._space = space
        self._actions = action_rows(event_types, known_actions(space.event_types))

    def encode(self, histories: Sequence[History]) -> FloatArray:
        """Returns the sequential view of each history, float32, (B, D); zero where nothing in it counts."""
        found = np.zeros((len(histories), VIEW_DIMENSIONS), np.float32)
        encoded = [encoded_history(self._space, history, self._actions) for history in histories]
        order = sorted((row for row, one in enumerate(encoded) if len(one.actions)), key=lambda row: len(encoded[row].actions))
        start = 0
        for place in range(len(order)):
            longest = len(encoded[order[place + 1]].actions) if place + 1 < len(order) else 0
            if not longest or longest * (place + 2 - start) > _TOKENS:
                chosen = order[start : place + 1]
                feed = sequence_inputs([encoded[one] for one in chosen])
                found[chosen] = self._session.run(["vector"], feed)[0]
                start = place + 1
        return found


def encoded_history(space: SequenceSpace, history: History, actions: NDArray[np.int64]) -> EncodedHistory:
    """Returns a history as the encoder reads it: only what counts, as on the server.

    Args:
        space: The items' side.
        history: Whose.
        actions: The network's number of each row of event types.
    """
    counts = history.weights > 0
    return EncodedHistory(space.items[history.rows[counts]], actions[history.kinds[counts]], history.times[counts])
