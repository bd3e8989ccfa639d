"""The fused vector: four views of 384 numbers each, for items and for users.

Shapes: H interactions of a history, B items, C candidates, V = 4 views, D = 384 dimensions a view.

The dense score of an item is the sum over views of weight * <user view, item view>. Weights are folded into the user side, so retrieval is
one inner-product search, and the four products are the reasons of each result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import ItemId
from server.domain.items import Item
from server.domain.profiles import Interaction
from server.domain.ranking import VECTOR_DIMENSIONS, VIEW_DIMENSIONS, VIEWS
from server.errors import InvalidFieldError
from server.retrieval.context import item_features

FloatArray: TypeAlias = NDArray[np.float32]

ACTION_WEIGHTS: Mapping[str, float] = {
    "impression": 0.05,
    "view": 0.5,
    "page_view": 0.5,
    "click": 1.0,
    "search": 1.0,
    "share": 1.5,
    "save": 2.0,
    "favorite": 2.0,
    "like": 2.0,
    "add_to_cart": 2.5,
    "enquire": 3.0,
    "enquiry": 3.0,
    "contact": 3.0,
    "book": 4.0,
    "booking": 4.0,
    "purchase": 4.0,
    "hide": 0.0,
    "dismiss": 0.0,
}
"""How much one action says about taste, in clicks. Types not listed count as one click; an unwanted item counts nothing."""

SEMANTIC, COLLABORATIVE, SEQUENTIAL, CONTEXTUAL = (slice(v * VIEW_DIMENSIONS, (v + 1) * VIEW_DIMENSIONS) for v in range(len(VIEWS)))


def action_weight(event_type: str) -> float:
    """Returns how many clicks one action of this type is worth; 1 for a type nobody listed."""
    return ACTION_WEIGHTS.get(event_type.lower(), 1.0)


def recency_weights(event_types: Sequence[str], decay: float) -> FloatArray:
    """Returns the weight of each interaction, (H,): its action's weight times decay ** steps before the newest.

    Steps, not hours: what a user did last says most, however long ago it was.
    """
    actions = np.fromiter((action_weight(kind) for kind in event_types), np.float32, len(event_types))
    return actions * aged(len(event_types), decay)


def aged(length: int, decay: float) -> FloatArray:
    """Returns decay ** steps before the newest, float32, (length,)."""
    return np.asarray(np.power(np.float32(decay), np.arange(length - 1, -1, -1, dtype=np.float32)), np.float32)


@dataclass(frozen=True, slots=True)
class UserVector:
    """A user's four views before weighting, and the weights."""

    views: FloatArray
    """float32, (V, D). A view about which nothing is known is zero."""
    weights: FloatArray
    """float32, (V,): the bundle's weights for dense retrieval."""
    history_length: int

    @property
    def query(self) -> FloatArray:
        """The vector to search with, float32, (1536,): each view times its weight."""
        return (self.views * self.weights[:, None]).reshape(-1)

    def contributions(self, item_vectors: FloatArray) -> FloatArray:
        """Returns <user view, item view>, float32, (C, V), unweighted, for item vectors (C, 1536)."""
        items = item_vectors.reshape(-1, len(VIEWS), VIEW_DIMENSIONS)
        return np.asarray(np.einsum("cvd,vd->cv", items, self.views), np.float32)  # (C, V)


class VectorSpace:
    """Makes item and user vectors that belong together. Immutable; one a bundle.

    Args:
        item_ids: Items that the collaborative factors know; row n of both factor arrays is item n.
        factors_in: float32, (N, D): what having interacted with an item adds to a user's collaborative view.
        factors_out: float32, (N, D): the item's own collaborative view.
        decay: Weight of a user's interaction relative to the one after it, in (0, 1].
        weights: float32, (V,): weights of the views in dense retrieval, >= 0.
    """

    def __init__(
        self, item_ids: Sequence[ItemId], factors_in: FloatArray, factors_out: FloatArray, *, decay: float, weights: FloatArray
    ) -> None:
        self._row = {item_id: row for row, item_id in enumerate(item_ids)}
        self._factors_in = factors_in
        self._factors_out = factors_out
        self._decay = decay
        self._weights = weights

    @classmethod
    def untrained(cls) -> VectorSpace:
        """Returns the space of a tenant without a bundle: text and context only."""
        empty = np.zeros((0, VIEW_DIMENSIONS), np.float32)
        return cls((), empty, empty, decay=0.8, weights=np.array([1.0, 0.0, 0.0, 0.3], np.float32))

    def item_vectors(self, items: Sequence[Item], text_vectors: FloatArray) -> FloatArray:
        """Returns the items' fused vectors, float32, (B, 1536).

        Args:
            items: B items. One that the factors do not know gets a zero collaborative view.
            text_vectors: float32, (B, D), unit rows; zero where there is none yet.

        Raises:
            InvalidFieldError: `text_vectors` has another shape or is not finite.
        """
        if text_vectors.shape != (len(items), VIEW_DIMENSIONS) or not np.isfinite(text_vectors).all():
            raise InvalidFieldError(
                "text_vectors", f"must be finite and of shape ({len(items)}, {VIEW_DIMENSIONS}), not {text_vectors.shape}"
            )
        vectors = np.zeros((len(items), VECTOR_DIMENSIONS), np.float32)
        vectors[:, SEMANTIC] = text_vectors
        for place, item in enumerate(items):
            row = self._row.get(item.item_id)
            if row is not None:
                vectors[place, COLLABORATIVE] = self._factors_out[row]
            vectors[place, CONTEXTUAL] = hash_features(item_features(item))
        return vectors

    def user_vector(
        self, history: Sequence[Interaction], text_vectors: FloatArray, context: Mapping[str, float] | None = None
    ) -> UserVector:
        """Returns the user's views.

        Args:
            history: H interactions, oldest first.
            text_vectors: float32, (H, D): the text vector of each interaction's item, zero if it has none.
            context: Features of the request and profile, as `context.request_features` makes them.

        Raises:
            InvalidFieldError: `text_vectors` has another shape.
        """
        if text_vectors.shape != (len(history), VIEW_DIMENSIONS):
            raise InvalidFieldError("text_vectors", f"must have shape ({len(history)}, {VIEW_DIMENSIONS}), not {text_vectors.shape}")
        views = np.zeros((len(VIEWS), VIEW_DIMENSIONS), np.float32)
        weights = recency_weights([interaction.event_type for interaction in history], self._decay)  # (H,)
        if history:
            views[0] = semantic_view(text_vectors, weights)
            views[1] = self.fold_in([interaction.item_id for interaction in history], weights)
        if context:
            views[3] = hash_features(context)
        return UserVector(views, self._weights, len(history))

    def fold_in(self, item_ids: Sequence[ItemId], weights: FloatArray) -> FloatArray:
        """Returns the collaborative view, float32, (D,): the weighted sum of the known items' input factors, of unit length."""
        rows = np.fromiter((self._row.get(item_id, -1) for item_id in item_ids), np.int64, len(item_ids))
        known = rows >= 0
        return self.fold_in_rows(rows[known], weights[known])

    def fold_in_rows(self, rows: NDArray[np.int64], weights: FloatArray) -> FloatArray:
        """Returns the collaborative view for rows of the factors."""
        return _unit(weights @ self._factors_in[rows])


def semantic_view(text_vectors: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns the weighted mean direction of text vectors, float32, (D,), unit length; zero for none."""
    return _unit(weights @ text_vectors)


def _unit(vector: FloatArray) -> FloatArray:
    length = float(np.linalg.norm(vector))
    return (vector / length if length > 0 else vector).astype(np.float32)


def hash_features(features: Mapping[str, float]) -> FloatArray:
    """Returns signed feature hashing of named weights into (D,), unit length; zero for no features.

    Source: K. Weinberger et al., Feature Hashing for Large Scale Multitask Learning, ICML 2009.
    """
    vector = np.zeros(VIEW_DIMENSIONS, np.float32)
    for name in sorted(features):  # names that share a bucket are added in one order: equal features, equal bits
        place, sign = _bucket(name)
        vector[place] += sign * features[name]
    return _unit(vector)


@lru_cache(maxsize=65536)
def _bucket(name: str) -> tuple[int, float]:
    digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return (digest >> 1) % VIEW_DIMENSIONS, 1.0 if digest & 1 else -1.0
