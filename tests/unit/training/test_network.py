from __future__ import annotations

import numpy as np
import pytest

from server.domain.ranking import RANKER_FEATURES
from server.retrieval.fusion import FusionWeights, retrieval_score
from training.network import INPUTS, Inputs, Layers, LearnedRanker

_WEIGHTS = FusionWeights(sparse=1.0, collaborative=0.5, semantic=2.0)


def _features(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (rows, len(RANKER_FEATURES))).astype(np.float32)


@pytest.mark.parametrize("widths", [(), (4,), (4, 3)])
def test_the_gradient_is_that_of_the_score(widths: tuple[int, ...]) -> None:
    """It agrees with differences in every parameter."""
    generator = np.random.default_rng(1)
    layers = Layers.start(widths, 1.0, 1)
    packed = layers.packed() + generator.normal(0, 0.3, len(layers.packed()))
    inputs, error = generator.normal(0, 1, (6, len(INPUTS))).astype(np.float32), generator.normal(0, 1, 6).astype(np.float32)
    found = layers.unpacked(packed)
    gradient = found.gradient(inputs, found.forward(inputs)[1], error)
    step = 1e-2
    for place in range(len(packed)):
        up, down = packed.copy(), packed.copy()
        up[place] += step
        down[place] -= step
        change = (layers.unpacked(up).scores(inputs) - layers.unpacked(down).scores(inputs)) @ error / (2 * step)
        assert gradient[place] == pytest.approx(change, abs=5e-3)


@pytest.mark.parametrize("widths", [(), (4,)])
def test_a_network_starts_as_the_fusion(widths: tuple[int, ...]) -> None:
    """Before anything is learned its scores differ from the fusion's by one constant."""
    features = _features(300)
    inputs = Inputs.fitted(_WEIGHTS, features)
    scores = LearnedRanker(_WEIGHTS, (inputs, Layers.start(widths, 1 / float(inputs.scale[0]), 0))).scores(features)
    difference = scores - retrieval_score(features, _WEIGHTS)
    assert difference.std() < 1e-4


def test_inputs_have_mean_zero_and_deviation_one() -> None:
    """One that never varied is zero."""
    features = _features(500)
    features[:, RANKER_FEATURES.index("price_fit")] = 0.3
    inputs = Inputs.fitted(_WEIGHTS, features).of(features)
    constant = INPUTS.index("price_fit")
    varying = np.delete(inputs, constant, axis=1)
    np.testing.assert_allclose(varying.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(varying.std(axis=0), 1, atol=1e-3)
    assert not inputs[:, constant].any()


def test_parameters_survive_packing() -> None:
    """Unpacking gives each layer its own."""
    layers = Layers.start((3, 2), 1.5, 4)
    again = layers.unpacked(layers.packed())
    np.testing.assert_array_equal(again.packed(), layers.packed())
    assert [weights.shape for weights, _ in again.hidden] == [(len(INPUTS), 3), (3, 2)]
