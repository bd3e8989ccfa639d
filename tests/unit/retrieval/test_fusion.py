from __future__ import annotations

import numpy as np
import pytest

from server.domain.ranking import RANKED_FEATURES, RANKER_FEATURES, VIEWS
from server.errors import CorruptDataError
from server.retrieval.affinity import Affinities
from server.retrieval.fusion import SOURCES, UNTRAINED, FusionWeights, feature_matrix, reasons, retrieval_score


def _features(**columns: float) -> np.ndarray:
    return np.array([[columns.get(name, 0.0) for name in RANKER_FEATURES]], np.float32)


def test_columns_are_in_the_order_of_the_ranker() -> None:
    """Each argument lands in the column of its name."""
    shares = {name: np.array([place], np.float32) for place, name in enumerate(RANKER_FEATURES[4:10], start=4)}
    fits = Affinities(*(np.array([value], np.float32) for value in (0.25, 0.5, 0.75)))
    matrix = feature_matrix(np.arange(4, dtype=np.float32)[None], **shares, history_length=0, affinities=fits)
    assert matrix.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, *[0] * 7, 0.25, 0.5, 0.75]]


def test_ranks_are_of_the_column_they_are_named_for() -> None:
    """The candidate with more of a source has the better rank of that source, and of no other."""
    for name in RANKED_FEATURES:
        columns = {column: np.array([0.2, 0.4 if column == name else 0.2], np.float32) for column in RANKER_FEATURES[:10]}
        contributions = np.stack([columns.pop(view) for view in VIEWS], axis=1)
        matrix = feature_matrix(contributions, **columns, history_length=3, affinities=Affinities.unknown(2))
        ranks = {column: matrix[:, RANKER_FEATURES.index(f"{column}_rank")].tolist() for column in RANKED_FEATURES}
        assert ranks == {column: [0.5, 1.0] if column == name else [0.0, 0.0] for column in RANKED_FEATURES}


def test_more_of_any_source_never_lowers_the_score() -> None:
    """Each feature with a weight raises the score."""
    weights = FusionWeights(sparse=1, regression=1, collaborative=1, sequential=1)
    base = retrieval_score(_features(), weights)
    for name in RANKER_FEATURES[: RANKER_FEATURES.index("history_length")]:
        assert retrieval_score(_features(**{name: 0.5}), weights) > base, name


def test_reasons_add_up_to_the_score_above_nothing() -> None:
    """What the sources add equals the score minus the score of an item that no source knows."""
    weights = FusionWeights(sparse=1, regression=0.5, collaborative=0.5, sequential=0.3)
    features = _features(**dict.fromkeys(RANKER_FEATURES, 0.25))
    parts = reasons(features, weights)
    assert parts.shape == (1, len(SOURCES))
    gain = retrieval_score(features, weights) - retrieval_score(_features(), weights)
    np.testing.assert_allclose(parts.sum(axis=1), gain, rtol=1e-4)


def test_without_a_bundle_text_decides() -> None:
    """A tenant with only a catalogue is ranked by text before popularity."""
    near, popular = _features(semantic=0.8), _features(semantic=0.1, popularity=0.5)
    assert retrieval_score(near, UNTRAINED) > retrieval_score(popular, UNTRAINED)


@pytest.mark.parametrize(
    "values", [None, {}, {"sparse": 1}, {**FusionWeights().to_json(), "more": 1}, {**FusionWeights().to_json(), "sparse": "1"}]
)
def test_weights_of_another_version_are_refused(values: object) -> None:
    """A missing, unknown or non-numeric weight is a corrupt bundle."""
    with pytest.raises(CorruptDataError, match="fusion weights"):
        FusionWeights.from_json(values)


def test_weights_survive_the_manifest() -> None:
    """What was written is read."""
    weights = FusionWeights(sparse=0.7, semantic=3.0)
    assert FusionWeights.from_json(weights.to_json()) == weights
