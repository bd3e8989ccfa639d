"""A fitted model in memory: what a bundle holds, and the scores it gives to all items, by the functions that serve.

Shapes: B users, N items, D dimensions a view, H interactions of a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import ItemId
from server.domain.ranking import VIEW_DIMENSIONS, VIEWS
from server.retrieval.fusion import FusionWeights, fused
from server.retrieval.sources import SparseSource
from server.retrieval.vectors import VectorSpace, aged, semantic_view
from training.counting import Counts, count, user_items
from training.data import Interactions
from training.views.collaborative import Factors, fit_factors

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
History: TypeAlias = tuple[IntArray, FloatArray]
"""Item rows and action weights, both (H,), oldest first."""


DEFAULT = FusionWeights(sparse=1.0, collaborative=0.25, popularity=0.02, semantic=0.25, trending=0.0, freshness=0.0)
"""Before anything was chosen. What trends and what is new bring candidates, but earn a place in the order only by the other features:
offline data, whose times may be made up, cannot tell what they are worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decays:
    """Weight of an interaction relative to the one after it, for each source; in (0, 1]."""

    transitions: float = 0.7
    cosine: float = 0.8
    collaborative: float = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Everything that `training.bundle` writes, and nothing that it does not."""

    item_ids: tuple[ItemId, ...]
    counts: Counts
    factors: Factors
    popularity: FloatArray
    """float32, (N,): users of the item relative to the most popular one's."""
    text_vectors: FloatArray | None
    """float32, (N, D), unit rows; None where no item has a text."""
    decays: Decays = field(default_factory=Decays)
    weights: FusionWeights = DEFAULT
    view_weights: FloatArray
    """float32, (V,), for dense retrieval."""

    def sparse_source(self) -> SparseSource:
        """Returns the item-to-item source, as the bundle's readers make it."""
        counts, decays = self.counts, (self.decays.transitions, self.decays.cosine)
        return SparseSource(self.item_ids, counts.transitions, counts.together, counts.mass, counts.users, decays=decays)

    def space(self) -> VectorSpace:
        """Returns the vector space, as the bundle's readers make it."""
        return VectorSpace(
            self.item_ids, self.factors.incoming, self.factors.outgoing, decay=self.decays.collaborative, weights=self.view_weights
        )

    def tuned(self, weights: FusionWeights, decays: Decays) -> Model:
        """Returns the model with another fusion."""
        return replace(self, weights=weights, decays=decays)


def fit(interactions: Interactions, item_ids: tuple[ItemId, ...], text_vectors: FloatArray | None = None) -> Model:
    """Returns the model of these interactions, with a fusion that nothing has chosen yet."""
    wanted = interactions if (interactions.weights > 0).all() else interactions.select(interactions.weights > 0)
    users = np.asarray(user_items(wanted).sum(axis=0), np.float32).ravel()
    return Model(
        item_ids=item_ids,
        counts=count(wanted),
        factors=fit_factors(wanted),
        popularity=users / max(float(users.max(initial=0.0)), 1.0),
        text_vectors=text_vectors,
        view_weights=np.ones(len(VIEWS), np.float32),
    )


class Scorer:
    """Scores all items for users by history. Makes the same numbers as the server, item by item.

    Args:
        model: The fitted model.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._sparse = model.sparse_source()
        self._space = model.space()

    def sparse(self, history: History, decay: float, *, cosine: bool) -> FloatArray:
        """Returns transitions or cosine of all items, float32, (N,)."""
        rows, actions = history
        return self._sparse.scores(rows, actions * aged(len(rows), decay), cosine=cosine)

    def collaborative(self, histories: Sequence[History], decay: float) -> FloatArray:
        """Returns the collaborative scores of all items, float32, (B, N)."""
        views = np.zeros((len(histories), VIEW_DIMENSIONS), np.float32)
        for place, (rows, actions) in enumerate(histories):
            views[place] = self._space.fold_in_rows(rows, actions * aged(len(rows), decay))
        return np.asarray(views @ self.model.factors.outgoing.T, np.float32)

    def semantic(self, histories: Sequence[History], decay: float) -> FloatArray:
        """Returns the semantic scores of all items, float32, (B, N); zeros where there are no texts."""
        texts = self.model.text_vectors
        if texts is None:
            return np.zeros((len(histories), len(self.model.item_ids)), np.float32)
        views = np.stack([semantic_view(texts[rows], actions * aged(len(rows), decay)) for rows, actions in histories])
        return np.asarray(views @ texts.T, np.float32)

    def columns(self, histories: Sequence[History]) -> dict[str, FloatArray]:
        """Returns the ranker's features of all items for users without a request context, each float32, (B, N) or (1, N)."""
        decays = self.model.decays
        nothing = np.zeros((1, 1), np.float32)
        columns = dict.fromkeys(("sequential", "contextual", "trending", "freshness"), nothing)
        columns["transitions"] = np.stack([self.sparse(history, decays.transitions, cosine=False) for history in histories])
        columns["cosine"] = np.stack([self.sparse(history, decays.cosine, cosine=True) for history in histories])
        columns["collaborative"] = self.collaborative(histories, decays.collaborative)
        columns["semantic"] = self.semantic(histories, decays.collaborative)
        columns["popularity"] = self.model.popularity[None, :]
        return columns

    def scores(self, histories: Sequence[History]) -> FloatArray:
        """Returns the fused scores of all items, float32, (B, N)."""
        return fused(self.columns(histories), self.model.weights)
