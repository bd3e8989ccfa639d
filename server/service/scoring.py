"""Scores candidates with the tenant's ranker, or without it, and makes the list's entries.

Shapes: C candidates, F ranker features.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.domain import ItemId, Reason, Rung, ScoredItem
from server.errors import AisleError
from server.inference import Ranker
from server.retrieval.fusion import retrieval_score
from server.retrieval.probability import shares
from server.service.catalogue import Catalogue
from server.service.deadlines import left_s
from server.service.lists import Ladder

_RANK_SHARE = 0.5


class Scores(NamedTuple):
    """What is known of each candidate once it is scored."""

    scores: NDArray[np.float32]
    """(C,), larger is better."""
    probabilities: NDArray[np.float32] | None = None
    """(C,), as in `ScoredItem`; None where no calibrated ranker answered."""
    runtime: str = ""
    """That ranked; empty where none did."""

    def order(self, item_ids: Sequence[ItemId]) -> list[int]:
        """Returns places by falling score, ties by id, so that neither row numbers nor the source decide."""
        order = np.argsort(-self.scores, kind="stable")
        values = self.scores[order]
        places: list[int] = order.tolist()
        if (values[1:] == values[:-1]).any():
            places.sort(key=lambda place: (-self.scores[place], item_ids[place]))
        return places

    def listed(
        self, item_ids: Sequence[ItemId], places: Sequence[int], reasons: Sequence[tuple[Reason, ...]] | None = None
    ) -> tuple[ScoredItem, ...]:
        """Returns the entries of a list.

        Args:
            item_ids: Of the candidates.
            places: The list's, in order: indexes of candidates.
            reasons: One an entry; None: no entry has any.
        """
        rows = np.asarray(places, np.int64)
        chances = [None] * len(places) if self.probabilities is None else self.probabilities[rows].tolist()
        whys = [()] * len(places) if reasons is None else reasons
        entries = zip(places, self.scores[rows].tolist(), whys, chances, strict=True)
        return tuple(ScoredItem(item_ids[place], score, why, chance) for place, score, why, chance in entries)


async def score(ranker: Ranker, catalogue: Catalogue, features: NDArray[np.float32], ladder: Ladder, *, deadline: float) -> Scores:
    """Returns the ranker's scores, or the retrieval score where it does not answer in time: then the ladder comes down.

    Args:
        ranker: Of all tenants.
        catalogue: The tenant's.
        features: float32, (C, F). C may be 0.
        ladder: How far the reply came.
        deadline: time.monotonic() by which the reply is wanted; ranking gets half of what is left.
    """
    if not catalogue.bundle:
        ladder.drop(Rung.NO_RANKER, "this tenant has no live bundle; run `aisle train --promote`")
    elif len(features):
        share = time.monotonic() + left_s(deadline) * _RANK_SHARE
        try:
            scored = await ranker.score(catalogue.ranker, features, deadline=share)
        except AisleError as error:
            ladder.drop(Rung.NO_RANKER, f"no ranker: {error.message}")
        else:
            return Scores(scored.scores, shares(scored.values) if catalogue.bundle.calibrated else None, scored.runtime)
    return Scores(retrieval_score(features, catalogue.weights))
