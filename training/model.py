"""A fitted model in memory: what a bundle holds, and the scores it gives to all items, by the functions that serve.

Shapes: B users, N items, D dimensions a view, H interactions of a history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import ItemId
from server.domain.items import Item
from server.domain.ranking import VIEW_DIMENSIONS, VIEWS
from server.retrieval.affinity import ItemFacts
from server.retrieval.fusion import FusionWeights, fused
from server.retrieval.semantic import SemanticMap
from server.retrieval.sequence import SequenceSpace
from server.retrieval.sources import SPARSE_SCORES, CsrCounts, SparseScore, SparseSource
from server.retrieval.vectors import SEMANTIC_DECAY, VectorSpace, aged, semantic_view
from training.counting import Counts, count, user_items
from training.data import History, Interactions
from training.network import LearnedRanker
from training.popularity import NEVER, popularities
from training.regression import fit_regression
from training.views.collaborative import Factors, fit_factors
from training.views.semantic_map import ItemTexts, fit_semantic
from training.views.sequential.fit import Sequential
from training.views.sequential.scores import HistoryEncoder

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]


DEFAULT = FusionWeights(
    sparse=1.0, regression=0.25, collaborative=0.25, popularity=0.02, semantic=0.25, sequential=0.5, trending=0.0, freshness=0.0
)
"""Before anything was chosen. What trends and what is new bring candidates, but earn a place in the order only by the other features:
offline data, whose times may be made up, cannot tell what they are worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decays:
    """How fast each source forgets. If nothing else is said: the weight of an interaction relative to the one after it, in (0, 1]."""

    transitions: float = 0.7
    cosine: float = 0.8
    regression: float = 0.8
    collaborative: float = 0.8
    popularity_half_life: float = NEVER
    """Share of all interactions after which a user of an item counts half in its popularity; `NEVER` for not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Everything that `training.bundle` writes, and nothing that it does not."""

    item_ids: tuple[ItemId, ...]
    counts: Counts
    regression: CsrCounts
    """Weight of having one item in the estimate of having another."""
    factors: Factors
    popularity: FloatArray
    """float32, (N,): users of the item relative to the most popular one's."""
    popularities: Mapping[float, FloatArray] = field(default_factory=dict)
    """The same by half-life, to choose from; empty: there is nothing to choose."""
    semantic_views: FloatArray | None
    """float32, (N, D); None where no item has a text."""
    semantic: SemanticMap = field(default_factory=SemanticMap.identity)
    """Makes the semantic views."""
    event_types: tuple[str, ...] = ()
    """Behind the rows of `History.kinds`."""
    sequential: Sequential | None = None
    decays: Decays = field(default_factory=Decays)
    weights: FusionWeights = DEFAULT
    view_weights: FloatArray
    """float32, (V,), for dense retrieval."""
    facts: ItemFacts | None = None
    """Prices, places and categories, slot n of item n; None where only ids are known."""
    context_axes: Mapping[str, float] = field(default_factory=dict)
    """Weights of the axes of requests' features; empty: all count alike."""
    ranker: LearnedRanker | None = None
    """Orders in place of the fusion where it did better."""

    def sparse_source(self) -> SparseSource:
        """Returns the item-to-item source, as the bundle's readers make it."""
        counts, decays = self.counts, (self.decays.transitions, self.decays.cosine, self.decays.regression)
        arrays = (counts.transitions, counts.together, counts.mass, counts.users)
        return SparseSource(self.item_ids, *arrays, regression=self.regression, decays=decays)

    def space(self) -> VectorSpace:
        """Returns the vector space, as the bundle's readers make it."""
        return VectorSpace(
            self.item_ids,
            self.factors.incoming,
            self.factors.outgoing,
            sequence=self.sequence_space(),
            semantic=self.semantic,
            decay=self.decays.collaborative,
            weights=self.view_weights,
            context_axes=self.context_axes,
        )

    def sequence_space(self) -> SequenceSpace:
        """Returns the items' side of the sequential view."""
        return self.sequential.space if self.sequential is not None else SequenceSpace.empty()

    def tuned(self, weights: FusionWeights, decays: Decays) -> Model:
        """Returns the model with another fusion."""
        popularity = self.popularities.get(decays.popularity_half_life, self.popularity)
        return replace(self, weights=weights, decays=decays, popularity=popularity)


def fit(
    interactions: Interactions,
    item_ids: tuple[ItemId, ...],
    texts: ItemTexts | None = None,
    *,
    sequential: Sequential | None = None,
    event_types: tuple[str, ...] = (),
    counts: Counts | None = None,
    regression: CsrCounts | None = None,
    factors: Factors | None = None,
) -> Model:
    """Returns the model of these interactions, with a fusion that nothing has chosen yet.

    Args:
        interactions: All.
        item_ids: Of their rows.
        texts: Of the items; None where none has any.
        sequential: The trained view, if there is one.
        event_types: Behind the rows of `Interactions.kinds`.
        counts: What `count` would give, if it is known.
        regression: What `fit_regression` would give, if it is known.
        factors: What `fit_factors` would give, if it is known.
    """
    wanted = interactions if (interactions.weights > 0).all() else interactions.select(interactions.weights > 0)
    held = user_items(wanted)
    aged_popularity = popularities(wanted)
    semantic = fit_semantic(held, texts) if texts is not None else SemanticMap.identity()
    return Model(
        item_ids=item_ids,
        counts=count(wanted) if counts is None else counts,
        regression=fit_regression(held) if regression is None else regression,
        factors=fit_factors(wanted) if factors is None else factors,
        popularity=aged_popularity[NEVER],
        popularities=aged_popularity,
        semantic_views=texts.mapped(semantic) if texts is not None else None,
        semantic=semantic,
        event_types=event_types,
        sequential=sequential,
        weights=DEFAULT if sequential is not None else replace(DEFAULT, sequential=0.0),
        view_weights=np.ones(len(VIEWS), np.float32),
    )


def with_facts(model: Model, items: Iterable[Item]) -> Model:
    """Returns the model with what is known of its items."""
    known = {item.item_id: item for item in items}
    if not known:
        return model
    return replace(model, facts=ItemFacts.of([known.get(item_id) or Item(item_id=item_id, title="") for item_id in model.item_ids]))


class Scorer:
    """Scores all items for users by history. Makes the same numbers as the server, item by item.

    Args:
        model: The fitted model.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._sparse = model.sparse_source()
        self._space = model.space()
        self._encoder = None
        if model.sequential is not None:
            self._encoder = HistoryEncoder(model.sequential.space, model.sequential.onnx, model.event_types)

    def sparse(self, history: History, decay: float, score: SparseScore) -> FloatArray:
        """Returns a score of the item-to-item source of all items, float32, (N,)."""
        return self._sparse.scores(history.rows, history.weights * aged(len(history.rows), decay), score)

    def collaborative(self, histories: Sequence[History], rows: IntArray | None = None, *, decay: float) -> FloatArray:
        """Returns the collaborative scores of the items in some rows, or of all, float32, (B, N)."""
        views = np.zeros((len(histories), VIEW_DIMENSIONS), np.float32)
        for place, history in enumerate(histories):
            views[place] = self._space.fold_in_rows(history.rows, history.weights * aged(len(history.rows), decay))
        return np.asarray(views @ _some(self.model.factors.outgoing, rows).T, np.float32)

    def semantic(self, histories: Sequence[History], rows: IntArray | None = None) -> FloatArray:
        """Returns the semantic scores of the items in some rows, or of all, float32, (B, N); zeros where there are no texts."""
        items = self.model.semantic_views
        if items is None:
            return np.zeros((len(histories), len(self.model.item_ids) if rows is None else len(rows)), np.float32)
        return np.asarray(semantic_views_of(items, histories) @ _some(items, rows).T, np.float32)

    def sequential(self, histories: Sequence[History], rows: IntArray | None = None) -> FloatArray:
        """Returns the sequential scores of the items in some rows, or of all, float32, (B, N); (B, 1) zeros where there is no such view."""
        if self._encoder is None:
            return np.zeros((len(histories), 1), np.float32)
        return np.asarray(self._encoder.encode(histories) @ _some(self.model.sequence_space().items, rows).T, np.float32)

    def columns(self, histories: Sequence[History]) -> dict[str, FloatArray]:
        """Returns the ranker's features of all items for users without a request context, each float32, (B, N) or (1, N)."""
        decays = self.model.decays
        nothing = np.zeros((1, 1), np.float32)
        columns = dict.fromkeys(("contextual", "trending", "freshness"), nothing)
        for score in SPARSE_SCORES:
            columns[score] = np.stack([self.sparse(history, getattr(decays, score), score) for history in histories])
        columns["collaborative"] = self.collaborative(histories, decay=decays.collaborative)
        columns["semantic"] = self.semantic(histories)
        columns["sequential"] = self.sequential(histories)
        columns["popularity"] = self.model.popularity[None, :]
        return columns

    def scores(self, histories: Sequence[History]) -> FloatArray:
        """Returns the fused scores of all items, float32, (B, N)."""
        return fused(self.columns(histories), self.model.weights)


def _some(items: FloatArray, rows: IntArray | None) -> FloatArray:
    return items if rows is None else items[rows]


def semantic_views_of(items: FloatArray, histories: Sequence[History]) -> FloatArray:
    """Returns the users' semantic views, float32, (B, D), from the items', (N, D)."""
    return np.stack([semantic_view(items[one.rows], one.weights * aged(len(one.rows), SEMANTIC_DECAY)) for one in histories])
