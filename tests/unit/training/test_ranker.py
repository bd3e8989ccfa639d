from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.ranking import RANKER_FEATURES
from server.inference import contract
from server.retrieval.fusion import FusionWeights, retrieval_score
from training.calibration_fit import UNKNOWN, Calibration
from training.network import FREE, INPUTS, Inputs, Layers, LearnedRanker
from training.ranker import ranker_model

_CALIBRATION = Calibration(np.array([-3, -1, 0.5, 4], np.float32), np.array([0.01, 0.02, 0.4, 0.9], np.float32))
_WEIGHTS = FusionWeights(sparse=1.0, collaborative=0.5, popularity=0.1, semantic=2.0, sequential=0.3, contextual=0.5)


def _features(seed: int, rows: int = 17) -> np.ndarray:
    features = np.random.default_rng(seed).uniform(-1, 1, (rows, len(RANKER_FEATURES))).astype(np.float32)
    features[:, 4:] = np.abs(features[:, 4:])
    return features


def _ranker(seed: int, widths: tuple[int, ...] = (5,)) -> LearnedRanker:
    """Returns a network with random weights, as large as fitting makes them, of the signs it may have."""
    generator = np.random.default_rng(seed)
    layers = Layers.start(widths, 1.0, seed)
    values = generator.normal(0, 1, len(layers.packed()))
    return LearnedRanker(
        _WEIGHTS, (Inputs.fitted(_WEIGHTS, _features(seed, 200)), layers.unpacked(np.maximum(values, layers.least()))), _CALIBRATION
    )


def _run(ranker: LearnedRanker, features: np.ndarray) -> list[Any]:
    session = onnxruntime.InferenceSession(ranker_model(ranker).SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(["scores", "probability"], {"features": features}))


def test_features_are_those_of_the_model_contract() -> None:
    """What retrieval computes is what the ranker takes."""
    assert contract.RANKER_FEATURES == RANKER_FEATURES


@given(
    st.builds(
        FusionWeights,
        sparse=st.floats(0, 2),
        cosine_mix=st.floats(0, 4),
        collaborative=st.floats(0, 2),
        popularity=st.floats(0, 1),
        semantic=st.floats(0, 4),
        contextual=st.floats(0, 1),
    ),
    st.integers(0, 2**32 - 1),
)
def test_a_ranker_without_network_equals_the_fallback(weights: FusionWeights, seed: int) -> None:
    """The ONNX model and what serves without a runtime give the same score within 1e-5."""
    features = _features(seed)
    scores, _ = _run(LearnedRanker(weights), features)
    np.testing.assert_allclose(scores, retrieval_score(features, weights), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("widths", [(), (5,), (4, 3)])
@pytest.mark.parametrize("calibration", [UNKNOWN, _CALIBRATION])
@given(seed=st.integers(0, 2**32 - 1))
def test_an_exported_network_equals_the_fitted_one(widths: tuple[int, ...], calibration: Calibration, seed: int) -> None:
    """Scores and their calibration are those that it was judged by."""
    fitted = _ranker(seed, widths)
    ranker = LearnedRanker(fitted.weights, fitted.network, calibration)
    features = _features(seed + 1)
    scores, probability = _run(ranker, features)
    np.testing.assert_allclose(scores, ranker.scores(features), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(probability, ranker.calibration.of(ranker.scores(features)), atol=1e-4)


@given(
    seed=st.integers(0, 2**32 - 1),
    widths=st.sampled_from([(), (5,), (4, 3)]),
    name=st.sampled_from([name for name in RANKER_FEATURES if name not in FREE]),
    rise=st.floats(0.0078125, 3, width=32),
)
def test_more_of_a_source_never_lowers_score_or_probability(seed: int, widths: tuple[int, ...], name: str, rise: float) -> None:
    """Whatever the weights are, for every feature but the length of the history."""
    features = _features(seed)
    more = features.copy()
    more[:, RANKER_FEATURES.index(name)] += np.float32(rise)
    ranker = _ranker(seed, widths)
    for before, after in zip(_run(ranker, features), _run(ranker, more), strict=True):
        assert (after >= before - 1e-5 * np.maximum(1, np.abs(before))).all(), name


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    """So a server may put candidates of many requests into one call."""
    features, ranker = _features(3), _ranker(3)
    whole = _run(ranker, features)
    for row in range(len(features)):
        for one, every in zip(_run(ranker, features[row : row + 1]), whole, strict=True):
            np.testing.assert_allclose(one, every[row : row + 1], atol=1e-6, rtol=1e-6)


def test_only_the_length_of_the_history_is_free() -> None:
    """Every other input of the network is bounded from below."""
    layers = Layers.start((5,), 1.0, 0)
    least = layers.unpacked(layers.least())
    assert [name for name, low in zip(INPUTS, least.direct, strict=True) if low < 0] == list(FREE)
    assert {name for name, low in zip(INPUTS, least.hidden[0][0].min(axis=1), strict=True) if low < 0} == set(FREE)
    assert (least.last == 0).all()
