"""Held-out cases as the ranker sees them: the server's candidates with the server's features, and what came of each.

Shapes: S cases, C candidates of a case, F ranker features, B users, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ranking import RANKED_FEATURES, RANKER_FEATURES, VIEWS
from server.retrieval.affinity import HISTORY_DECAY, NOTHING_STATED, Affinities, Wishes
from server.retrieval.fusion import feature_matrix, retrieval_score
from server.retrieval.pool import DENSE, POPULAR, REGRESSED, SPARSE, first, sparse_strength, strongest
from server.retrieval.vectors import aged
from training.data import History
from training.model import Model, Scorer

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

WIDTH = 100
"""Candidates that a case keeps, the fusion's best and what was chosen. With 200 the network gained no more, in twice the time."""


EXTREME = 10
"""Candidates that a case keeps beside those, of each source that ranks: the ones it names first."""

_REST = 20
"""Candidates drawn from all others, so that it is known what they are worth together. The ranker does not learn from them."""

_RANKED = [RANKER_FEATURES.index(name) for name in RANKED_FEATURES]


@dataclass(frozen=True, slots=True)
class Cases:
    """Cases padded to one width."""

    features: FloatArray
    """float32, (S, C, F)."""
    valid: NDArray[np.bool_]
    """(S, C): what the ranker learns from. False for padding, and for those that only count."""
    gains: FloatArray
    """float32, (S, C): how much what the user did on the candidate is worth; 0 for nothing."""
    near: NDArray[np.bool_]
    """(S, C): among the fusion's best; the report tells of these whether probabilities come true."""
    counts: FloatArray
    """float32, (S, C): how many of the case's candidates each stands for when it is told how likely they are; 0 for none."""

    def __len__(self) -> int:
        return len(self.features)

    def select(self, places: IntArray | NDArray[np.bool_]) -> Cases:
        """Returns some cases."""
        return Cases(self.features[places], self.valid[places], self.gains[places], self.near[places], self.counts[places])


class Case(NamedTuple):
    """What `Cases` hold of one, each (C,) but the features, (C, F)."""

    features: FloatArray
    gains: FloatArray
    valid: NDArray[np.bool_]
    near: NDArray[np.bool_]
    counts: FloatArray

    @classmethod
    def whole(cls, features: FloatArray, gains: FloatArray) -> Case:
        """Returns the case of which every candidate is kept."""
        everything = np.ones(len(gains), np.bool_)
        return cls(features, gains, everything, everything, everything.astype(np.float32))


class Pool:
    """The server's candidates and features for users without a request, made from a fitted model.

    Args:
        model: The fitted model.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._scorer = Scorer(model)
        popular = np.argsort(-model.popularity, kind="stable")
        self._popular = popular[model.popularity[popular] > 0]

    def columns(self, histories: Sequence[History]) -> dict[str, FloatArray]:
        """Returns the sources' scores of all items, each (B, N)."""
        shape = (len(histories), len(self._model.item_ids))
        return {name: np.broadcast_to(column, shape) for name, column in self._scorer.columns(histories).items()}

    def candidates(self, columns: dict[str, FloatArray], place: int, history: History) -> IntArray:
        """Returns the rows that the server's sources name for one user, ascending, without those of the history."""
        allowed = np.ones(len(self._model.item_ids), np.bool_)
        allowed[history.rows] = False
        sparse = sparse_strength(columns["transitions"][place], columns["cosine"][place])
        dense = np.zeros(len(allowed), np.float32)
        for view, weight in zip(VIEWS, self._model.view_weights, strict=True):
            dense += weight * columns[view][place]
        everything = np.arange(len(allowed))
        named = [
            strongest(everything, sparse, allowed, SPARSE),
            strongest(everything, columns["regression"][place], allowed, REGRESSED),
            first(self._popular, allowed, POPULAR),
        ]
        if dense.any():
            near = np.flatnonzero(allowed)
            named.append(near if len(near) <= DENSE else near[np.argpartition(-dense[near], DENSE)[:DENSE]])
        rows: IntArray = np.unique(np.concatenate(named))
        return rows

    def features(
        self, columns: dict[str, FloatArray], place: int, history: History, rows: IntArray, stated: Wishes = NOTHING_STATED
    ) -> FloatArray:
        """Returns the ranker's features of candidates, float32, (C, F), by the functions that serve."""
        touched, facts = history.rows, self._model.facts
        weights = history.weights * aged(len(touched), HISTORY_DECAY)
        return feature_matrix(
            np.stack([columns[view][place][rows] for view in VIEWS], axis=1),
            transitions=columns["transitions"][place][rows],
            cosine=columns["cosine"][place][rows],
            regression=columns["regression"][place][rows],
            popularity=columns["popularity"][place][rows],
            trending=columns["trending"][place][rows],
            freshness=columns["freshness"][place][rows],
            history_length=len(touched),
            affinities=facts.affinities(rows, touched, weights, stated) if facts else Affinities.unknown(len(rows)),
        )


_BLOCK = 256
_CELLS = 4_000_000
"""Scores of one source held at once: blocks of histories are cut to it where there are many items."""


def sampled_cases(model: Model, histories: Sequence[History], targets: Sequence[int], worth: Sequence[float]) -> Cases:
    """Returns a case for each history whose next item is among what the server would have ranked.

    Args:
        model: Fitted without what is asked for.
        histories: Before the target.
        targets: Row of the item that came next; none of its history.
        worth: Value of what was done with it.
    """
    pool = Pool(model)
    cases: list[Case] = []
    generator = np.random.default_rng(0)
    size = max(1, min(_BLOCK, _CELLS // max(len(model.item_ids), 1)))
    for at in range(0, len(histories), size):
        block = histories[at : at + size]
        columns = pool.columns(block)
        for place, history in enumerate(block):
            rows = pool.candidates(columns, place, history)
            gain = np.where(rows == targets[at + place], np.float32(worth[at + place]), np.float32(0))
            if gain.any():
                found = pool.features(columns, place, history, rows)
                cases.append(_kept(found, gain, _best(retrieval_score(found, model.weights)), generator))
    return padded(cases)


def _kept(features: FloatArray, gains: FloatArray, best: NDArray[np.bool_], generator: np.random.Generator) -> Case:
    """Returns the case of a few of these candidates, (C,), that stand for all of them."""
    alone = best | (gains > 0)
    counts = alone.astype(np.float32)
    rest = np.flatnonzero(~alone)
    if len(rest):
        drawn = generator.permutation(rest)[:_REST]
        counts[drawn] = len(rest) / len(drawn)
    valid = alone | _extreme(features)
    keep = np.flatnonzero(valid | (counts > 0))
    return Case(features[keep], gains[keep], valid[keep], best[keep], counts[keep])


def _extreme(features: FloatArray) -> NDArray[np.bool_]:
    """Returns which candidates have most of any one source: a network that never met those whom one source alone names puts them on top."""
    extreme = np.zeros(len(features), np.bool_)
    for place in _RANKED:
        column = features[:, place]
        if len(column) > EXTREME:
            extreme[np.argpartition(-column, EXTREME)[:EXTREME]] = True
    return extreme


def padded(cases: Sequence[Case]) -> Cases:
    """Returns cases, each of as many candidates as it may have, as one array of each kind."""
    shape = (len(cases), max((len(case.gains) for case in cases), default=0))
    whole = Cases(
        np.zeros((*shape, len(RANKER_FEATURES)), np.float32),
        np.zeros(shape, np.bool_),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.bool_),
        np.zeros(shape, np.float32),
    )
    for place, case in enumerate(cases):
        for name, column in case._asdict().items():
            getattr(whole, name)[place, : len(column)] = column
    return whole


def _best(scores: FloatArray) -> NDArray[np.bool_]:
    """Returns which candidates are among the best `WIDTH`."""
    best = np.ones(len(scores), np.bool_)
    if len(scores) > WIDTH:
        best[np.argpartition(-scores, WIDTH)[WIDTH:]] = False
    return best
