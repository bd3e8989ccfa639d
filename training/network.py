"""A small network over the ranker's features whose score never falls when a source says more.

Every weight on the way from a feature that must not lower the score is >= 0 and every activation rises, so the whole is monotone by
construction, whatever it is fitted on.

Shapes: C candidates (any leading dimensions), F ranker features, Z inputs of the network, H hidden units.

Source: J. Sill, Monotonic Networks, NIPS 1997, for weights of one sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ranking import RANKED_FEATURES, RANKER_FEATURES
from server.retrieval.fusion import FusionWeights, fused, retrieval_score
from server.retrieval.probability import shares
from training.calibration_fit import UNKNOWN, Calibration

FloatArray: TypeAlias = NDArray[np.float32]

LOGARITHMIC = ("transitions", "cosine", "regression", "collaborative", "popularity", *(f"{name}_rank" for name in RANKED_FEATURES))
LINEAR = ("semantic", "sequential", "contextual", "price_fit", "distance_fit", "category_affinity", "history_length")
INPUTS = ("fusion", *LOGARITHMIC, *LINEAR)
"""Columns of the network's input. `trending` and `freshness` enter by the fusion alone: offline times are often made up."""

FREE = ("history_length",)
"""Inputs that may act in either direction; all others never lower the score."""

_RANK_FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class Inputs:
    """How features become inputs: a logarithm, then mean 0 and deviation 1."""

    weights: FusionWeights
    mean: FloatArray
    """float32, (Z,)."""
    scale: FloatArray
    """float32, (Z,): 1 / deviation; 0 for an input that never varied."""

    @classmethod
    def fitted(cls, weights: FusionWeights, features: FloatArray) -> Inputs:
        """Returns the inputs that have mean 0 and deviation 1 over features (C, F)."""
        plain = cls(weights, np.zeros(len(INPUTS), np.float32), np.ones(len(INPUTS), np.float32))
        values = plain.of(features).astype(np.float64)
        deviation = values.std(axis=0)
        scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0.0)
        return cls(weights, values.mean(axis=0).astype(np.float32), scale.astype(np.float32))

    def of(self, features: FloatArray) -> FloatArray:
        """Returns the network's inputs, float32, (..., Z), for features (..., F)."""
        columns = {name: features[..., place] for place, name in enumerate(RANKER_FEATURES)}
        inputs = np.empty((*features.shape[:-1], len(INPUTS)), np.float32)
        inputs[..., 0] = fused(columns, self.weights)
        for place, (name, floor) in enumerate(zip(LOGARITHMIC, floors(self.weights), strict=True), start=1):
            inputs[..., place] = np.log(np.maximum(columns[name], 0) + np.float32(floor))
        for place, name in enumerate(LINEAR, start=1 + len(LOGARITHMIC)):
            inputs[..., place] = columns[name]
        return (inputs - self.mean) * self.scale


def floors(weights: FusionWeights) -> tuple[float, ...]:
    """Returns what is added under the logarithm of each `LOGARITHMIC` feature."""
    named = {
        "transitions": weights.sparse_floor,
        "cosine": weights.sparse_floor,
        "regression": weights.regression_floor,
        "collaborative": weights.collaborative_floor,
        "popularity": weights.popularity_floor,
    }
    return tuple(named.get(name, _RANK_FLOOR) for name in LOGARITHMIC)


@dataclass(frozen=True, slots=True)
class Layers:
    """The parameters. score = direct . z + last . tanh(... tanh(first z + bias) ...)."""

    direct: NDArray[np.float64]
    """(Z,)."""
    hidden: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    """Weights (in, H) and bias (H,) of each hidden layer; none: the network is linear."""
    last: NDArray[np.float64]
    """(H,); empty without a hidden layer."""

    @classmethod
    def start(cls, widths: tuple[int, ...], fusion_deviation: float, seed: int) -> Layers:
        """Returns layers whose score is the fusion's up to a constant, with small random hidden weights and no weight on their result."""
        generator = np.random.default_rng(seed)
        direct = np.zeros(len(INPUTS))
        direct[0] = fusion_deviation
        hidden = []
        before = len(INPUTS)
        for width in widths:
            hidden.append((generator.uniform(0, 2 / before, (before, width)), generator.uniform(-1, 1, width)))
            before = width
        return cls(direct, tuple(hidden), np.zeros(widths[-1] if widths else 0))

    def packed(self) -> NDArray[np.float64]:
        """Returns all parameters as one array."""
        return np.concatenate([self.direct, *(part.ravel() for layer in self.hidden for part in layer), self.last])

    def unpacked(self, values: NDArray[np.float64]) -> Layers:
        """Returns layers of these shapes with other parameters."""
        sizes = [part.shape for part in (self.direct, *(part for layer in self.hidden for part in layer), self.last)]
        parts, at = [], 0
        for shape in sizes:
            size = int(np.prod(shape))
            parts.append(values[at : at + size].reshape(shape))
            at += size
        pairs = tuple((parts[1 + 2 * number], parts[2 + 2 * number]) for number in range(len(self.hidden)))
        return Layers(parts[0], pairs, parts[-1])

    def least(self) -> NDArray[np.float64]:
        """Returns the least value each packed parameter may have: 0 for weights, nothing for biases and for `FREE` inputs."""
        free = np.array([name in FREE for name in INPUTS])
        direct = np.where(free, -np.inf, 0.0)
        parts = [direct]
        for number, (weights, bias) in enumerate(self.hidden):
            least = np.zeros_like(weights)
            if not number:
                least[free] = -np.inf
            parts += [least.ravel(), np.full(bias.shape, -np.inf)]
        return np.concatenate([*parts, np.zeros(len(self.last))])

    def scores(self, inputs: FloatArray) -> FloatArray:
        """Returns the score of each row, float32, (C,), for inputs (C, Z)."""
        return self.forward(inputs)[0]

    def forward(self, inputs: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
        """Returns the scores and each hidden layer's output, (C, H)."""
        outputs, current = [], inputs
        for weights, bias in self.hidden:
            current = np.tanh(current @ weights.astype(np.float32) + bias.astype(np.float32))
            outputs.append(current)
        score = inputs @ self.direct.astype(np.float32)
        if self.hidden:
            score = score + current @ self.last.astype(np.float32)
        return np.asarray(score, np.float32), outputs

    def gradient(self, inputs: FloatArray, outputs: list[FloatArray], error: FloatArray) -> NDArray[np.float64]:
        """Returns the gradient of sum(error * score) by the packed parameters.

        Args:
            inputs: (C, Z).
            outputs: As `forward` returned them.
            error: float32, (C,).
        """
        direct = inputs.T @ error
        if not self.hidden:
            return np.asarray(direct, np.float64)
        parts = [outputs[-1].T @ error]
        flowing = error[:, None] * self.last.astype(np.float32)  # (C, H)
        for number in range(len(self.hidden) - 1, -1, -1):
            flowing = flowing * (1 - outputs[number] ** 2)
            before = outputs[number - 1] if number else inputs
            parts = [(before.T @ flowing).ravel(), flowing.sum(axis=0), *parts]
            if number:
                flowing = flowing @ self.hidden[number][0].T.astype(np.float32)
        return np.asarray(np.concatenate([direct, *parts]), np.float64)


@dataclass(frozen=True, slots=True)
class LearnedRanker:
    """What orders candidates, and what tells how likely each of them is."""

    weights: FusionWeights
    network: tuple[Inputs, Layers] | None = None
    """None: the fusion orders."""
    calibration: Calibration = UNKNOWN

    def scores(self, features: FloatArray) -> FloatArray:
        """Returns the score of each candidate, float32, (C,), for features (C, F)."""
        if self.network is None:
            return retrieval_score(features, self.weights)
        inputs, layers = self.network
        return layers.scores(inputs.of(features))

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Returns the probability of each candidate among these, float32, (C,): their sum is 1."""
        return shares(self.calibration.of(self.scores(features)))
