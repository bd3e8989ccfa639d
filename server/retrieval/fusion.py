"""One score from all sources: the ranker's features, and the fusion that a bundle chose on validation.

Shapes: C candidates, F ranker features, V views.

Shares are fused in the logarithm, which beats any weighted sum of them: sources that agree multiply.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ranking import RANKED_FEATURES, RANKER_FEATURES, VIEWS
from server.errors import CorruptDataError
from server.retrieval.affinity import Affinities
from server.retrieval.ranks import reciprocal_ranks

FloatArray: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionWeights:
    """The fusion of one bundle. Weights are >= 0; a source without data has weight 0.

    score = sparse * log(transitions + cosine_mix * cosine + sparse_floor)
          + regression * log(regression + regression_floor)
          + collaborative * log(max(collaborative, 0) + collaborative_floor)
          + popularity * log(popularity + popularity_floor)
          + semantic, sequential, contextual, trending and freshness, each times its weight
    """

    sparse: float = 0.0
    cosine_mix: float = 0.5
    sparse_floor: float = 1e-4
    regression: float = 0.0
    regression_floor: float = 1e-3
    collaborative: float = 0.0
    collaborative_floor: float = 1e-3
    popularity: float = 0.1
    popularity_floor: float = 1e-3
    semantic: float = 1.0
    sequential: float = 0.0
    contextual: float = 0.5
    trending: float = 0.1
    freshness: float = 0.05

    def to_json(self) -> dict[str, float]:
        """Returns the weights by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> FusionWeights:
        """Returns the weights that `to_json` wrote.

        Raises:
            CorruptDataError: A name is missing or unknown, or a value is not a number.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names or not all(isinstance(value, int | float) for value in values.values()):
            raise CorruptDataError("fusion weights of the bundle do not match this version; train it again", part="fusion")
        return cls(**{name: float(value) for name, value in values.items()})


_HISTORY = RANKER_FEATURES.index("history_length")
_FITS = RANKER_FEATURES.index("price_fit")
_RANKED = [RANKER_FEATURES.index(name) for name in RANKED_FEATURES]

UNTRAINED = FusionWeights()
"""For a tenant without a bundle: text, context, what trends and what is new."""


def feature_matrix(
    contributions: FloatArray,
    *,
    transitions: FloatArray,
    cosine: FloatArray,
    regression: FloatArray,
    popularity: FloatArray,
    trending: FloatArray,
    freshness: FloatArray,
    history_length: int,
    affinities: Affinities,
) -> FloatArray:
    """Returns the ranker's input, float32, (C, F), columns as in `RANKER_FEATURES`.

    Args:
        contributions: float32, (C, V), as `UserVector.contributions` returns.
        transitions: float32, (C,), 0 for candidates that the sparse source does not name. So are the other shares.
        cosine: float32, (C,).
        regression: float32, (C,).
        popularity: float32, (C,).
        trending: float32, (C,).
        freshness: float32, (C,).
        history_length: Interactions the user vector was made from.
        affinities: Of the same candidates.
    """
    features = np.empty((len(contributions), len(RANKER_FEATURES)), np.float32)
    features[:, : len(VIEWS)] = contributions
    columns = (transitions, cosine, regression, popularity, trending, freshness)
    for place, column in enumerate(columns, start=len(VIEWS)):
        features[:, place] = column
    features[:, _HISTORY] = np.log1p(history_length)
    features[:, _HISTORY + 1 : _FITS] = reciprocal_ranks(features[:, _RANKED])
    for place, column in enumerate(affinities, start=_FITS):
        features[:, place] = column
    return features


def retrieval_score(features: FloatArray, weights: FusionWeights) -> FloatArray:
    """Returns the fused score of each candidate, float32, (C,), from its features (C, F).

    The ranker that the first bundles export computes the same; this one serves when no runtime answers.
    """
    columns = dict(zip(RANKER_FEATURES, features.T, strict=True))
    return fused(columns, weights)


def fused(columns: dict[str, FloatArray], weights: FusionWeights) -> FloatArray:
    """Returns the fused score, float32, shaped like `transitions`, for feature columns of shapes that broadcast to it."""
    score = np.zeros_like(columns["transitions"], dtype=np.float32)
    if weights.sparse:
        share = columns["transitions"] + np.float32(weights.cosine_mix) * columns["cosine"]
        score += np.float32(weights.sparse) * np.log(share + np.float32(weights.sparse_floor))
    if weights.regression:
        score += np.float32(weights.regression) * np.log(columns["regression"] + np.float32(weights.regression_floor))
    if weights.collaborative:
        affinity = np.maximum(columns["collaborative"], 0)
        score += np.float32(weights.collaborative) * np.log(affinity + np.float32(weights.collaborative_floor))
    if weights.popularity:
        score += np.float32(weights.popularity) * np.log(columns["popularity"] + np.float32(weights.popularity_floor))
    for name in ("semantic", "sequential", "contextual", "trending", "freshness"):
        weight = getattr(weights, name)
        if weight:
            score += np.float32(weight) * columns[name]
    return score


def reasons(features: FloatArray, weights: FusionWeights) -> FloatArray:
    """Returns how much each source adds to each candidate's score above the least it can add, float32, (C, len(SOURCES)).

    Log terms are counted from their floor, so a source that says nothing of an item contributes 0.
    """
    columns = dict(zip(RANKER_FEATURES, features.T, strict=True))
    parts = np.zeros((len(features), len(SOURCES)), np.float32)
    affinity = np.maximum(columns["collaborative"], 0)
    share = columns["transitions"] + np.float32(weights.cosine_mix) * columns["cosine"]
    parts[:, 0] = weights.semantic * columns["semantic"]
    parts[:, 1] = weights.collaborative * np.log1p(affinity / weights.collaborative_floor)
    parts[:, 2] = weights.sequential * columns["sequential"]
    parts[:, 3] = weights.contextual * columns["contextual"]
    parts[:, 4] = weights.sparse * np.log1p(share / weights.sparse_floor)
    parts[:, 4] += weights.regression * np.log1p(columns["regression"] / weights.regression_floor)
    parts[:, 5] = weights.trending * columns["trending"]
    parts[:, 6] = weights.freshness * columns["freshness"]
    parts[:, 7] = weights.popularity * np.log1p(columns["popularity"] / weights.popularity_floor)
    return parts


SOURCES = (*VIEWS, "item_to_item", "trending", "fresh", "popular")
"""Names of the columns of `reasons`; the values of `Reason.source`."""
