"""Fits the ranker's network to held-out cases, and keeps it only where it ranks better than the fusion alone.

Shapes: S cases, C candidates of a case, F ranker features, Z inputs of the network, K folds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from server.retrieval.bundle import SHARED_OUT
from server.retrieval.fusion import FusionWeights, retrieval_score
from training.calibration_fit import UNKNOWN, Reliability, fit_calibration
from training.data import Progress
from training.network import Inputs, Layers, LearnedRanker
from training.ranking_cases import Cases

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

ENOUGH_CASES = 400
"""Cases below which nothing is learned: a gain that size of sample could show is one that nobody has to be told of."""

FOLDS = 4
WIDTHS = (32, 32)
"""Hidden units. See docs/adr/0015."""

_STEPS = 60
_STEEPEST = 60.0
"""Difference of scores beyond which the logistic function is 0 or 1 in float32."""

_DEPTH = 10


@dataclass(frozen=True, slots=True)
class Learning:
    """A ranker and how it was judged: all figures are of cases that its network or calibration had not seen."""

    ranker: LearnedRanker
    cases: int
    fusion_ndcg: float
    """Mean NDCG@10 of the fusion over the cases, weighted by what they are worth."""
    gain: float
    """Mean gain of the network, 0 where none was fitted."""
    gain_error: float
    """Standard error of the gain."""
    reliability: Reliability

    def to_json(self) -> dict[str, Any]:
        """Returns what the manifest keeps of it."""
        return {
            "kind": "fusion" if self.ranker.network is None else "network",
            "cases": self.cases,
            "fusion_ndcg": self.fusion_ndcg,
            "gain": self.gain,
            "gain_error": self.gain_error,
            SHARED_OUT: self.ranker.calibration is not UNKNOWN,
        }


def learn(cases: Cases, weights: FusionWeights, *, progress: Progress, seed: int = 0) -> Learning:
    """Returns the ranker for these cases: the network where its gain exceeds its standard error, else the fusion.

    Each fold's cases are ranked by a network fitted on the others. The calibration is fitted on those scores, and its reliability is of
    calibrations fitted without the fold.

    Args:
        cases: What to learn from and to judge by.
        weights: The fusion that coordinate search chose.
        progress: Told about each step.
        seed: Of the folds.
    """
    before = retrieval_score(cases.features.reshape(-1, cases.features.shape[-1]), weights).reshape(cases.valid.shape)
    folds = np.random.default_rng(seed).permutation(len(cases)) % FOLDS
    after = np.zeros_like(before)
    enough = len(cases) >= ENOUGH_CASES
    for fold in range(FOLDS if enough else 0):
        inputs, layers = fit_network(cases.select(folds != fold), weights)
        after[folds == fold] = _standard(cases, _padded_scores(inputs, layers, cases))[0][folds == fold]
        progress("learning to rank", (fold + 1) / FOLDS)
    gain, error = _gain(cases, before, after) if enough else (0.0, 0.0)
    better = enough and gain > error
    network = fit_network(cases, weights) if better else None
    held_out = before
    if network is not None:  # every network has units of its own, and the calibration is of those of the one that serves
        _, mean, deviation = _standard(cases, _padded_scores(*network, cases))
        held_out = after * deviation + mean
    reliability = _reliability(cases, held_out, folds)
    calibration = fit_calibration(held_out, cases.gains > 0, cases.counts)
    value = float(np.average(ndcg(cases, before), weights=worth(cases))) if len(cases) else 0.0
    return Learning(LearnedRanker(weights, network, calibration), len(cases), value, gain, error, reliability)


def fit_network(cases: Cases, weights: FusionWeights) -> tuple[Inputs, Layers]:
    """Returns the network that ranks what was chosen highest, by L-BFGS with bounds, from the fusion on.

    It starts as the fusion and is drawn back to it as by a prior worth one case, so few cases change little.

    Args:
        cases: At least one, each with a gain.
        weights: The fusion.

    Source: R. H. Byrd et al., A Limited Memory Algorithm for Bound Constrained Optimization, SIAM J. Sci. Comput. 16 (1995).
    """
    inputs = Inputs.fitted(weights, cases.features[cases.valid])
    flat = inputs.of(cases.features).reshape(-1, len(inputs.mean))  # (S C, Z)
    start = Layers.start(WIDTHS, 1 / float(inputs.scale[0]) if inputs.scale[0] else 0.0, seed=0)
    origin = start.packed()
    penalty = 1 / len(cases)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        layers = start.unpacked(parameters)
        scores, outputs = layers.forward(flat)
        value, error = smooth_ndcg(cases, scores.reshape(cases.valid.shape))
        away = parameters - origin
        gradient = layers.gradient(flat, outputs, -error.reshape(-1)) + 2 * penalty * away
        return penalty * float(away @ away) - value, gradient

    bounds = [(low if np.isfinite(low) else None, None) for low in start.least()]
    found = minimize(loss, origin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS})
    return inputs, start.unpacked(np.asarray(found.x, np.float64))


def smooth_ndcg(cases: Cases, scores: FloatArray) -> tuple[float, FloatArray]:
    """Returns a smooth mean DCG of what was chosen, in (0, 1], and its gradient by the scores, (S, C).

    A chosen candidate's place is 1 + the sum over the others of the logistic function of how far they are above it. Cross-entropy was
    tried first: it fits the many candidates far down at the cost of the few on top (docs/adr/0015).

    Source: T. Qin, T.-Y. Liu and H. Li, A General Approximation Framework for Direct Optimization of Information Retrieval Measures,
    Information Retrieval 13 (2010).
    """
    case, place = np.nonzero(cases.gains)  # (P,) chosen candidates
    share = cases.gains[case, place] / cases.gains.sum()
    everything = np.arange(len(case))
    above = scores[case] - scores[case, place][:, None]  # (P, C)
    passed = 1 / (1 + np.exp(-np.clip(above, -_STEEPEST, _STEEPEST)))
    passed *= cases.valid[case]
    passed[everything, place] = 0
    places = 1 + passed.sum(axis=1)
    discount = np.log(2) / np.log1p(places)
    slope = -share * discount / ((1 + places) * np.log1p(places))  # by the place
    each = (passed * (1 - passed)) * slope[:, None]
    gradient = np.zeros(scores.shape, np.float32)
    np.add.at(gradient, case, each)
    np.add.at(gradient, (case, place), -each.sum(axis=1))
    return float(share @ discount), gradient


def ndcg(cases: Cases, scores: FloatArray) -> NDArray[np.float64]:
    """Returns NDCG@10 of each case, (S,), gains as they are; ties by place."""
    order = np.argsort(np.where(cases.valid, -scores, np.inf), axis=1, kind="stable")[:, :_DEPTH]
    discounts = 1 / np.log2(np.arange(2, 2 + _DEPTH))
    got = np.take_along_axis(cases.gains, order, axis=1).astype(np.float64)
    best = -np.sort(-cases.gains, axis=1)[:, :_DEPTH].astype(np.float64)
    ideal = (best * discounts[: best.shape[1]]).sum(axis=1)
    return np.asarray((got * discounts[: got.shape[1]]).sum(axis=1) / np.maximum(ideal, 1e-12), np.float64)


def worth(cases: Cases) -> NDArray[np.float64]:
    """Returns what each case is worth, (S,): its gains together."""
    return np.asarray(cases.gains.sum(axis=1, dtype=np.float64))


def _gain(cases: Cases, before: FloatArray, after: FloatArray) -> tuple[float, float]:
    """Returns the weighted mean gain in NDCG@10 and its standard error."""
    weights = worth(cases) / worth(cases).sum()
    difference = ndcg(cases, after) - ndcg(cases, before)
    mean = float(weights @ difference)
    return mean, float(np.sqrt(np.sum(weights**2 * (difference - mean) ** 2)))


def _padded_scores(inputs: Inputs, layers: Layers, cases: Cases) -> FloatArray:
    values = inputs.of(cases.features)
    return layers.scores(values.reshape(-1, values.shape[-1])).reshape(cases.valid.shape)


def _standard(cases: Cases, scores: FloatArray) -> tuple[FloatArray, np.float32, np.float32]:
    """Returns the scores in their deviations from their mean, and mean and deviation, of what the ranker learns from."""
    mean, deviation = scores[cases.valid].mean(), np.maximum(scores[cases.valid].std(), np.finfo(np.float32).tiny)
    return (scores - mean) / deviation, mean, deviation


def _reliability(cases: Cases, scores: FloatArray, folds: IntArray) -> Reliability:
    parts = list(_fold_reliability(cases, scores, folds)) if len(cases) >= FOLDS else []
    if not parts:
        return Reliability(np.zeros(0, np.float32), np.zeros(0, np.bool_))
    return Reliability(np.concatenate([part.probabilities for part in parts]), np.concatenate([part.outcomes for part in parts]))


def _fold_reliability(cases: Cases, scores: FloatArray, folds: IntArray) -> Iterator[Reliability]:
    outcomes = cases.gains > 0
    for fold in range(FOLDS):
        other, own = folds != fold, folds == fold
        calibration = fit_calibration(scores[other], outcomes[other], cases.counts[other])
        values = calibration.of(scores[own])
        total = (values * cases.counts[own]).sum(axis=1, keepdims=True)
        chances = values / np.maximum(total, np.finfo(np.float32).tiny)
        near = cases.near[own]
        yield Reliability(chances[near], outcomes[own][near])
