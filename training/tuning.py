"""Chooses the fusion and the decays on held-out interactions: the same search for every data set.

Shapes: S cases (a user's history and the item that came next), C candidates of a case, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ranking import VIEWS
from server.retrieval.fusion import FusionWeights, fused
from server.retrieval.sources import SPARSE_SCORES
from server.retrieval.vectors import SEMANTIC_DECAY
from training.cases import best_rows, draw_cases
from training.data import History, Interactions, Progress
from training.metrics import is_better
from training.model import Decays, Model, Scorer
from training.popularity import HALF_LIVES, NEVER

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
_Setting: TypeAlias = tuple[FusionWeights, Decays]

CASES = 4000
"""Held-out cases looked at: enough that the third digit of NDCG is no accident."""

_CANDIDATES = 150
"""Best items of each source that a case keeps. An item outside all of them cannot reach the top ten."""

_DECAYS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_BLOCK = 256
_CELLS = 16_000_000
"""Scores of one source held at once, 64 MB: blocks of cases are cut to it."""
_GRID: dict[str, tuple[float, ...]] = {
    "cosine_mix": (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0),
    "sparse_floor": (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "regression": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "regression_floor": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "collaborative": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "collaborative_floor": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "popularity": (0.001, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "popularity_floor": (1e-3, 1e-2, 1e-1),
    "sequential": (0.0, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.5),
    "semantic": (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
}
"""Popularity is never 0: it orders what nothing else tells apart, which for a user without a history is everything."""

_DEPTH = 100
"""NDCG of the first hundred chooses: it orders settings as NDCG@10 does, with far less noise on few cases."""

_ROUNDS = 4


@dataclass(slots=True)
class _Cases:
    """The candidates of every case, padded, with their feature columns by source and decay."""

    columns: dict[tuple[str, float], FloatArray]
    """(source, decay) -> float32, (S, C); of popularity by half-life."""
    sequential: FloatArray
    """float32, (S, C)."""
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
                "regression": self.columns["regression", decays.regression],
                "collaborative": self.columns["collaborative", decays.collaborative],
                "semantic": self.columns["semantic", SEMANTIC_DECAY],
                "popularity": self.columns["popularity", decays.popularity_half_life],
                "sequential": self.sequential,
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
    half_lives = _half_lives(folds)
    for fold in folds:
        chosen = draw_cases(fold.fitted, fold.held_out, cases - asked, seed=seed)
        if chosen:
            histories = [fold.fitted.history(user) for user, _ in chosen]
            prepared.append(_prepare(Scorer(fold.model), histories, [item for _, item in chosen], half_lives, progress))
            asked += len(chosen)
    if not asked:
        progress("nothing held out to choose the fusion on: keeping the default", 1.0)
        return with_view_weights(model)

    def gains(setting: _Setting) -> NDArray[np.float64]:
        return np.concatenate([part.gains(*setting) for part in prepared])

    absent = {name for name, part in (("semantic", model.semantic_views), ("sequential", model.sequential)) if part is None}
    grid = {name: values for name, values in _GRID.items() if name not in absent}
    setting = (replace(model.weights, **dict.fromkeys(absent, 0.0)), model.decays)
    best = gains(setting)
    for number in range(_ROUNDS):
        before = setting
        for change in _steps(grid, half_lives):
            trial = change(setting)
            found = gains(trial)
            if is_better(found - best):
                best, setting = found, trial
        progress(f"choosing the fusion: ndcg@{_DEPTH} {best.mean():.4f} on {asked} held-out cases", (number + 1) / _ROUNDS)
        if setting == before:
            break
    return with_view_weights(model.tuned(*setting))


def _half_lives(folds: Sequence[Fold]) -> tuple[float, ...]:
    """Returns the half-lives of popularity to choose from: one, where times cannot be compared across users."""
    return HALF_LIVES if all(fold.fitted.has_real_times() for fold in folds) else (NEVER,)


def _steps(grid: Mapping[str, tuple[float, ...]], half_lives: tuple[float, ...]) -> Iterator[Callable[[_Setting], _Setting]]:
    """Yields every change of one number, as a function of the setting so far; popularity's weight and half-life change together."""
    for name, values in grid.items():
        for value, half_life in product(values, half_lives if name == "popularity" else (None,)):
            yield partial(_with_weight, name, value, half_life)
    for name in ("transitions", "cosine", "regression", "collaborative"):
        for value in _DECAYS:
            yield partial(_with_decay, name, value)


def _with_weight(name: str, value: float, half_life: float | None, setting: _Setting) -> _Setting:
    weights, decays = setting
    return replace(weights, **{name: value}), decays if half_life is None else replace(decays, popularity_half_life=half_life)


def _with_decay(name: str, value: float, setting: _Setting) -> _Setting:
    return setting[0], replace(setting[1], **{name: value})


def with_view_weights(model: Model) -> Model:
    """Returns the model with weights for dense retrieval: each view's fused weight, in units of a good match in that view."""
    weights = model.weights
    factors = model.factors.outgoing
    spread = float(np.sqrt(np.einsum("nd,nd->n", factors, factors).max(initial=0.0)))  # norm(axis=1) would make two copies
    collaborative = weights.collaborative / spread if spread > 0 else 0.0
    semantic = max(weights.semantic, 0.05) if model.semantic_views is not None else 0.0
    by_view = {"semantic": semantic, "collaborative": collaborative, "sequential": weights.sequential, "contextual": weights.contextual}
    return replace(model, view_weights=np.array([by_view[view] for view in VIEWS], np.float32))


def _prepare(
    scorer: Scorer, histories: Sequence[History], targets: Sequence[int], half_lives: tuple[float, ...], progress: Progress
) -> _Cases:
    popular = {half_life: scorer.model.popularities[half_life] for half_life in half_lives}
    candidates = _candidates(scorer, histories, targets, popular.values())
    width = max(len(rows) for rows in candidates)
    places = np.zeros((len(candidates), width), np.int64)
    valid = np.zeros(places.shape, np.bool_)
    for case, rows in enumerate(candidates):
        places[case, : len(rows)] = rows
        valid[case, : len(rows)] = True
    target = np.array([int(np.searchsorted(rows, wanted)) for rows, wanted in zip(candidates, targets, strict=True)], np.int64)
    columns: dict[tuple[str, float], FloatArray] = {}
    block = _block(scorer)
    for number, decay in enumerate(_DECAYS, start=1):
        for name in SPARSE_SCORES:
            columns[name, decay] = np.stack(
                [scorer.sparse(history, decay, name)[rows] for history, rows in zip(histories, places, strict=True)]
            )
        columns["collaborative", decay] = _at_places(partial(scorer.collaborative, decay=decay), histories, places, block)
        progress("scoring held-out cases", number / len(_DECAYS))
    columns["semantic", SEMANTIC_DECAY] = _at_places(scorer.semantic, histories, places, block)
    sequential = np.zeros(places.shape, np.float32)
    if scorer.model.sequential is not None:
        sequential = _at_places(scorer.sequential, histories, places, block)
    columns |= {("popularity", half_life): popularity[places] for half_life, popularity in popular.items()}
    return _Cases(columns, sequential, valid, target)


def _at_places(
    score: Callable[[Sequence[History], IntArray], FloatArray], histories: Sequence[History], places: IntArray, block: int
) -> FloatArray:
    """Returns the scores of each history at its places, float32, (S, C): of a block of cases only what is a candidate of one is scored."""
    found, columns = [], np.zeros(int(places.max(initial=0)) + 1, np.int64)
    for at in range(0, len(histories), block):
        some = places[at : at + block]
        wanted = np.zeros(len(columns), np.bool_)
        wanted[some] = True
        rows = np.flatnonzero(wanted)
        columns[rows] = np.arange(len(rows))
        found.append(np.take_along_axis(score(histories[at : at + block], rows), columns[some], axis=1))
    return np.concatenate(found)


def _candidates(scorer: Scorer, histories: Sequence[History], targets: Sequence[int], popularities: Iterable[FloatArray]) -> list[IntArray]:
    """Returns the candidates of each case, rows ascending: the best of every source and the target, without what the user has."""
    found: list[IntArray] = []
    popular = np.unique(np.concatenate([np.argsort(-column, kind="stable")[:_CANDIDATES] for column in popularities]))
    block = _block(scorer)
    for at in range(0, len(histories), block):
        some = histories[at : at + block]
        columns = scorer.columns(some)
        for place, history in enumerate(some):
            best = [best_rows(columns[name][place], _CANDIDATES) for name in (*SPARSE_SCORES, "collaborative", "semantic", "sequential")]
            union = np.union1d(np.concatenate([*best, popular]), targets[at + place])
            found.append(np.setdiff1d(union, history.rows))
    return found


def _block(scorer: Scorer) -> int:
    """Returns how many cases are scored at once."""
    return max(1, min(_BLOCK, _CELLS // max(len(scorer.model.item_ids), 1)))
