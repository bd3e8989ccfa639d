"""The sequential view of a user at the moment of a request.

Shapes: H interactions of a history, D = 384 dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.domain import Interaction, Rung
from server.errors import AisleError
from server.inference import EncodedHistory, SequenceEncoder
from server.inference.sequence import action_rows, known_actions
from server.retrieval.vectors import SEQUENTIAL, action_weight
from server.service.catalogue import Catalogue
from server.service.lists import Ladder


async def sequential_view(
    sequences: SequenceEncoder,
    catalogue: Catalogue,
    history: Sequence[Interaction],
    item_vectors: NDArray[np.float32],
    ladder: Ladder,
    *,
    deadline: float,
) -> NDArray[np.float32] | None:
    """Returns what the bundle's transformer says of a history, float32, (D,), or None where there is none to ask or nothing to tell it.

    Args:
        sequences: The encoders that are loaded.
        catalogue: Whose bundle counts.
        history: Interactions with items that are in the catalogue, oldest first. Those that count nothing are passed over.
        item_vectors: float32, (H, 1536), of the history's items.
        ladder: Comes down a rung when the encoder does not answer.
        deadline: time.monotonic() by which the answer is wanted.
    """
    if not catalogue.sequence_encoder:
        return None
    counts = np.array([action_weight(interaction.event_type) > 0 for interaction in history], np.bool_)
    if not counts.any():
        return None
    actions = action_rows([interaction.event_type for interaction in history], known_actions(catalogue.space.sequence.event_types))
    times = np.array([interaction.occur_time.timestamp() for interaction in history])
    encoded = EncodedHistory(item_vectors[counts, SEQUENTIAL], actions[counts], times[counts])
    try:
        return (await sequences.encode(catalogue.sequence_encoder, encoded, deadline=deadline)).vector
    except AisleError as error:
        ladder.drop(Rung.NO_RANKER, f"no sequential view: {error.message}")
        return None
