"""Chooses the fusion and the decays on held-out interactions: the same search for every data set.

Shapes: S cases (a user's history and the item that came next), C candidates of a case, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ranking import VIEWS
from server.retrieval.fusion import FusionWeights, fused
from training.data import Interactions, Progress
from training.model import Decays, History, Model, Scorer

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
_Setting: TypeAlias = tuple[FusionWeights, Decays]

CASES = 4000
"""Held-out cases looked at: enough that the third digit of NDCG is no accident."""

_CANDIDATES = 150
"""Best items of each source that a case keeps. An item outside all of them cannot reach the top ten."""

_DECAYS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_BLOCK = 256
_GRID: dict[str, tuple[float, ...]] = {
    "cosine_mix": (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0),
    "sparse_floor": (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "collaborative": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "collaborative_floor": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "popularity": (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
    "popularity_floor": (1e-3, 1e-2, 1e-1),
    "semantic": (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
}
_DEPTH = 100
"""NDCG of the first hundred chooses: it orders settings as NDCG@10 does, with far less noise on few cases."""

_ROUNDS = 4


@dataclass(slots=True)
class _Cases:
    """The candidates of every case, padded, with their feature columns by source and decay."""

    columns: dict[tuple[str, float], FloatArray]
    """(source, decay) -> float32, (S, C)."""
    popularity: FloatArray
    valid: NDArray[np.bool_]
    """(S, C): False for padding."""
    target: IntArray
    """(S,): place of the target among the candidates."""

    def gains(self, weights: FusionWeights, decays: Decays) -> NDArray[np.float64]:
        """Returns the NDCG@100 of each case's target among its candidates, (S,)."""
        nothing = np.zeros((1, 1), np.float32)
        scores = fused(
            {
                "transitions": self.columns["transitions", decays.transitions],
                "cosine": self.columns["cosine", decays.cosine],
                "collaborative": self.columns["collaborative", decays.collaborative],
                "semantic": self.columns["semantic", decays.collaborative],
                "popularity": self.popularity,
                "sequential": nothing,
                "contextual": nothing,
                "trending": nothing,
                "freshness": nothing,
            },
            weights,
        )
        scores = np.where(self.valid, scores, -np.inf)
        own = np.take_along_axis(scores, self.target[:, None], axis=1)  # (S, 1)
        before = np.arange(scores.shape[1])[None, :] < self.target[:, None]
        ranks = (scores > own).sum(axis=1) + ((scores == own) & before).sum(axis=1)
        return np.asarray(np.where(ranks < _DEPTH, 1 / np.log2(ranks + 2.0), 0.0), np.float64)


@dataclass(frozen=True, slots=True)
class Fold:
    """Something to choose on."""

    model: Model
    """Fitted on `fitted` only."""
    fitted: Interactions
    """Where the histories come from. Users without one say nothing about fusion and are not asked."""
    held_out: Interactions
    """What came next, for the same users and items. Items that the user had already are not asked for."""


def choose(folds: Sequence[Fold], *, progress: Progress, cases: int = CASES, seed: int = 0) -> Model:
    """Returns the first fold's model with the fusion and decays that rank held-out items best, by coordinate search.

    Args:
        folds: At least one. All models start from the same setting.
        progress: Told about each step.
        cases: At most so many of all folds together, drawn with `seed`.
        seed: Of the draw.
    """
    model = folds[0].model
    prepared: list[_Cases] = []
    asked = 0
    for fold in folds:
        chosen = _draw(fold.fitted, fold.held_out, cases - asked, seed)
        if chosen:
            histories = [fold.fitted.history(user) for user, _ in chosen]
            prepared.append(_prepare(Scorer(fold.model), histories, [item for _, item in chosen], progress))
            asked += len(chosen)
    if not asked:
        progress("nothing held out to choose the fusion on: keeping the default", 1.0)
        return with_view_weights(model)

    def gains(setting: _Setting) -> NDArray[np.float64]:
        return np.concatenate([part.gains(*setting) for part in prepared])

    grid = dict(_GRID)
    weights = model.weights
    if model.text_vectors is None:
        weights = replace(weights, semantic=0.0)
        del grid["semantic"]
    setting = (weights, model.decays)
    best = gains(setting)
    for number in range(_ROUNDS):
        before = setting
        for change in _steps(grid):
            trial = change(setting)
            found = gains(trial)
            if _is_better(found - best):
                best, setting = found, trial
        progress(f"choosing the fusion: ndcg@{_DEPTH} {best.mean():.4f} on {asked} held-out cases", (number + 1) / _ROUNDS)
        if setting == before:
            break
    return with_view_weights(model.tuned(*setting))


def _is_better(difference: NDArray[np.float64]) -> bool:
    """Returns whether a mean gain exceeds its standard error: the default stays where cases are too few to tell.

    Source: the one-standard-error rule of L. Breiman et al., Classification and Regression Trees (1984), section 3.4.3.
    """
    mean = float(difference.mean())
    return mean > 0 and mean > float(difference.std()) / np.sqrt(len(difference))


def _steps(grid: Mapping[str, tuple[float, ...]]) -> Iterator[Callable[[_Setting], _Setting]]:
    """Yields every change of one number, as a function of the setting so far."""
    for name, values in grid.items():
        for value in values:
            yield partial(_with_weight, name, value)
    for field in fields(Decays):
        for value in _DECAYS:
            yield partial(_with_decay, field.name, value)


def _with_weight(name: str, value: float, setting: _Setting) -> _Setting:
    return replace(setting[0], **{name: value}), setting[1]


def _with_decay(name: str, value: float, setting: _Setting) -> _Setting:
    return setting[0], replace(setting[1], **{name: value})


def with_view_weights(model: Model) -> Model:
    """Returns the model with weights for dense retrieval: each view's fused weight, in units of a good match in that view."""
    weights = model.weights
    factors = model.factors.outgoing
    spread = float(np.linalg.norm(factors, axis=1).max(initial=0.0)) if len(factors) else 0.0
    collaborative = weights.collaborative / spread if spread > 0 else 0.0
    semantic = max(weights.semantic, 0.05) if model.text_vectors is not None else 0.0
    by_view = {"semantic": semantic, "collaborative": collaborative, "sequential": weights.sequential, "contextual": weights.contextual}
    return replace(model, view_weights=np.array([by_view[view] for view in VIEWS], np.float32))


def _draw(fitted: Interactions, held_out: Interactions, cases: int, seed: int) -> list[tuple[int, int]]:
    """Returns users and items to ask for, (user, item)."""
    if cases <= 0:
        return []
    generator = np.random.default_rng(seed)
    chosen: list[tuple[int, int]] = []
    for place in generator.permutation(len(held_out.users)).tolist():
        user, item = int(held_out.users[place]), int(held_out.items[place])
        start, end = fitted.starts[user], fitted.starts[user + 1]
        if end > start and held_out.weights[place] > 0 and item not in fitted.items[start:end]:
            chosen.append((user, item))
            if len(chosen) == cases:
                break
    return chosen


def _prepare(scorer: Scorer, histories: Sequence[History], targets: Sequence[int], progress: Progress) -> _Cases:
    candidates = _candidates(scorer, histories, targets)
    width = max(len(rows) for rows in candidates)
    places = np.zeros((len(candidates), width), np.int64)
    valid = np.zeros(places.shape, np.bool_)
    for case, rows in enumerate(candidates):
        places[case, : len(rows)] = rows
        valid[case, : len(rows)] = True
    target = np.array([int(np.searchsorted(rows, wanted)) for rows, wanted in zip(candidates, targets, strict=True)], np.int64)
    columns: dict[tuple[str, float], FloatArray] = {}
    for number, decay in enumerate(_DECAYS, start=1):
        for name, cosine in (("transitions", False), ("cosine", True)):
            columns[name, decay] = np.stack(
                [scorer.sparse(history, decay, cosine=cosine)[rows] for history, rows in zip(histories, places, strict=True)]
            )
        for name in ("collaborative", "semantic"):
            score = scorer.collaborative if name == "collaborative" else scorer.semantic
            blocks = range(0, len(histories), _BLOCK)
            columns[name, decay] = np.concatenate(
                [np.take_along_axis(score(histories[at : at + _BLOCK], decay), places[at : at + _BLOCK], axis=1) for at in blocks]
            )
        progress("scoring held-out cases", number / len(_DECAYS))
    return _Cases(columns, scorer.model.popularity[places], valid, target)


def _candidates(scorer: Scorer, histories: Sequence[History], targets: Sequence[int]) -> list[IntArray]:
    """Returns the candidates of each case, rows ascending: the best of every source and the target, without what the user has."""
    found: list[IntArray] = []
    popular = np.argsort(-scorer.model.popularity, kind="stable")[:_CANDIDATES]
    for at in range(0, len(histories), _BLOCK):
        block = histories[at : at + _BLOCK]
        columns = scorer.columns(block)
        for place, (rows, _) in enumerate(block):
            best = [_best(columns[name][place]) for name in ("transitions", "cosine", "collaborative", "semantic")]
            union = np.union1d(np.concatenate([*best, popular]), targets[at + place])
            found.append(np.setdiff1d(union, rows))
    return found


def _best(scores: FloatArray) -> IntArray:
    if len(scores) <= _CANDIDATES:
        return np.arange(len(scores))
    return np.argpartition(-scores, _CANDIDATES)[:_CANDIDATES]
