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
from server.retrieval.context import item_features, weighed
from server.retrieval.semantic import SemanticMap, item_terms
from server.retrieval.sequence import SequenceSpace
from server.retrieval.vector_rows import VectorRows

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

UNWANTED = tuple(kind for kind, weight in ACTION_WEIGHTS.items() if not weight)
"""Types that say nothing of taste and count nowhere."""
SEMANTIC_DECAY = 0.97
"""Weight of an interaction relative to the one after it, in the semantic view: taste in what things are about changes slowly."""

_IDENTITY = SemanticMap.identity()
_ALIKE: Mapping[str, float] = {}

SEMANTIC, COLLABORATIVE, SEQUENTIAL, CONTEXTUAL = (slice(v * VIEW_DIMENSIONS, (v + 1) * VIEW_DIMENSIONS) for v in range(len(VIEWS)))


class _Worth(dict[str, float]):
    """`ACTION_WEIGHTS` for every text; nothing is added. Types come in lower case nearly always, and are found without a call."""

    def __missing__(self, event_type: str) -> float:
        return self.get(event_type.lower(), 1.0)


action_weight = _Worth(ACTION_WEIGHTS).__getitem__
"""Returns how many clicks one action of a type is worth; 1 for a type nobody listed."""


def recency_weights(event_types: Sequence[str], decay: float) -> FloatArray:
    """Returns the weight of each interaction, (H,): its action's weight times decay ** steps before the newest.

    Steps, not hours: what a user did last says most, however long ago it was.
    """
    return _actions(tuple(event_types)) * aged(len(event_types), decay)


@lru_cache(maxsize=512)
def _actions(event_types: tuple[str, ...]) -> FloatArray:
    """Returns the actions' weights, float32, (H,), read-only: a list asks for those of one history six times, with other decays."""
    weights = np.fromiter(map(action_weight, event_types), np.float32, len(event_types))
    weights.flags.writeable = False
    return weights


@lru_cache(maxsize=4096)
def aged(length: int, decay: float) -> FloatArray:
    """Returns decay ** steps before the newest, float32, (length,), read-only: it is remembered."""
    powers = np.asarray(np.power(np.float32(decay), np.arange(length - 1, -1, -1, dtype=np.float32)), np.float32)
    powers.flags.writeable = False
    return powers


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

    def contributions_of(self, item_vectors: VectorRows, slots: NDArray[np.int64] | NDArray[np.int32]) -> FloatArray:
        """Returns `contributions(item_vectors.take(slots))`, float32, (C, V), without a copy of those vectors.

        Args:
            item_vectors: Of 1536 dimensions.
            slots: (C,), that were written.
        """
        return item_vectors.products_by_part(self.views, slots).T


class VectorSpace:
    """Makes item and user vectors that belong together. Immutable; one a bundle.

    Args:
        item_ids: Items that the collaborative factors know; row n of both factor arrays is item n.
        factors_in: float32, (N, D): what having interacted with an item adds to a user's collaborative view.
        factors_out: float32, (N, D): the item's own collaborative view.
        sequence: The items' side of the sequential view.
        decay: Weight of a user's interaction relative to the one after it, in (0, 1], in the collaborative view.
        weights: float32, (V,): weights of the views in dense retrieval, >= 0.
        semantic: Makes the items' semantic view.
        context_axes: Weights of the axes of requests' features, > 0; one that is not named counts 1.
    """

    def __init__(
        self,
        item_ids: Sequence[ItemId],
        factors_in: FloatArray,
        factors_out: FloatArray,
        *,
        sequence: SequenceSpace,
        decay: float,
        weights: FloatArray,
        semantic: SemanticMap = _IDENTITY,
        context_axes: Mapping[str, float] = _ALIKE,
    ) -> None:
        self._row = {item_id: row for row, item_id in enumerate(item_ids)}
        # Not as memory maps, whose class costs more than a gather of a few rows. The pages stay mapped.
        self._factors_in = np.asarray(factors_in)
        self._factors_out = np.asarray(factors_out)
        self.sequence = sequence
        self._decay = decay
        self._weights = weights
        self._semantic = semantic
        self._context_axes = context_axes

    @classmethod
    def untrained(cls) -> VectorSpace:
        """Returns the space of a tenant without a bundle: text and context only."""
        empty = np.zeros((0, VIEW_DIMENSIONS), np.float32)
        return cls((), empty, empty, sequence=SequenceSpace.empty(), decay=0.8, weights=np.array([1.0, 0.0, 0.0, 0.3], np.float32))

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
        rows = self._rows([item.item_id for item in items])
        vectors[:, SEMANTIC] = self._semantic.vectors(text_vectors, [item_terms(item) for item in items])
        vectors[rows >= 0, COLLABORATIVE] = self._factors_out[rows[rows >= 0]]
        vectors[:, SEQUENTIAL] = self.sequence.vectors(rows, text_vectors)
        for place, item in enumerate(items):
            vectors[place, CONTEXTUAL] = hash_features(item_features(item))
        return vectors

    def _rows(self, item_ids: Sequence[ItemId]) -> NDArray[np.int64]:
        row = self._row.get
        return np.array([row(item_id, -1) for item_id in item_ids], np.int64)

    def user_vector(
        self,
        history: Sequence[Interaction],
        semantic_views: FloatArray,
        context: Mapping[str, float] | None = None,
        *,
        sequential: FloatArray | None = None,
    ) -> UserVector:
        """Returns the user's views.

        Args:
            history: H interactions, oldest first.
            semantic_views: float32, (H, D): the semantic view of each interaction's item, as `item_vectors` made it; zero if it has none.
            context: Features of the request and profile, as `context.request_features` makes them.
            sequential: float32, (D,), the encoder's answer; None where there is none.

        Raises:
            InvalidFieldError: `semantic_views` has another shape.
        """
        if semantic_views.shape != (len(history), VIEW_DIMENSIONS):
            raise InvalidFieldError("semantic_views", f"must have shape ({len(history)}, {VIEW_DIMENSIONS}), not {semantic_views.shape}")
        views = np.zeros((len(VIEWS), VIEW_DIMENSIONS), np.float32)
        types = [interaction.event_type for interaction in history]
        weights = recency_weights(types, self._decay)  # (H,)
        if history:
            views[0] = semantic_view(semantic_views, recency_weights(types, SEMANTIC_DECAY))
            views[1] = self.fold_in([interaction.item_id for interaction in history], weights)
        if sequential is not None:
            views[2] = sequential
        if context:
            views[3] = hash_features(weighed(context, self._context_axes) if self._context_axes else context)
        return UserVector(views, self._weights, len(history))

    def fold_in(self, item_ids: Sequence[ItemId], weights: FloatArray) -> FloatArray:
        """Returns the collaborative view, float32, (D,): the weighted sum of the known items' input factors, of unit length."""
        rows = self._rows(item_ids)
        known = rows >= 0
        return self.fold_in_rows(rows[known], weights[known])

    def fold_in_rows(self, rows: NDArray[np.int64], weights: FloatArray) -> FloatArray:
        """Returns the collaborative view for rows of the factors."""
        return _unit(weights @ self._factors_in[rows])


def semantic_view(item_views: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns the weighted mean direction of the semantic views of items, float32, (D,), unit length; zero for none."""
    return _unit(weights @ item_views)


def _unit(vector: FloatArray) -> FloatArray:
    length = float(np.linalg.norm(vector))
    return (vector / length if length > 0 else vector).astype(np.float32)


def hash_features(features: Mapping[str, float]) -> FloatArray:
    """Returns `hashed` features at unit length; zero for no features."""
    return _unit(hashed(features))


def hashed(features: Mapping[str, float]) -> FloatArray:
    """Returns signed feature hashing of named weights into float32, (D,).

    Source: K. Weinberger et al., Feature Hashing for Large Scale Multitask Learning, ICML 2009.
    """
    vector = np.zeros(VIEW_DIMENSIONS, np.float32)
    for name in sorted(features):  # names that share a bucket are added in one order: equal features, equal bits
        place, sign = _bucket(name)
        vector[place] += sign * features[name]
    return vector


@lru_cache(maxsize=65536)
def _bucket(name: str) -> tuple[int, float]:
    digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return (digest >> 1) % VIEW_DIMENSIONS, 1.0 if digest & 1 else -1.0
