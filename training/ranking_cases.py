"""Held-out cases as the ranker sees them: the server's candidates with the server's features, and what came of each.

Shapes: S cases, C candidates of a case, F ranker features, B users, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

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

_RANKED = [RANKER_FEATURES.index(name) for name in RANKED_FEATURES]


@dataclass(frozen=True, slots=True)
class Cases:
    """Cases padded to one width."""

    features: FloatArray
    """float32, (S, C, F)."""
    valid: NDArray[np.bool_]
    """(S, C): False for padding."""
    gains: FloatArray
    """float32, (S, C): how much what the user did on the candidate is worth; 0 for nothing."""
    near: NDArray[np.bool_]
    """(S, C): valid, and not there only because it was chosen: how often candidates are chosen is told from these."""

    def __len__(self) -> int:
        return len(self.features)

    def select(self, places: IntArray | NDArray[np.bool_]) -> Cases:
        """Returns some cases."""
        return Cases(self.features[places], self.valid[places], self.gains[places], self.near[places])


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
    features, gains, near = [], [], []
    size = max(1, min(_BLOCK, _CELLS // max(len(model.item_ids), 1)))
    for at in range(0, len(histories), size):
        block = histories[at : at + size]
        columns = pool.columns(block)
        for place, history in enumerate(block):
            rows = pool.candidates(columns, place, history)
            gain = np.where(rows == targets[at + place], np.float32(worth[at + place]), np.float32(0))
            if gain.any():
                found = pool.features(columns, place, history, rows)
                best = _best(retrieval_score(found, model.weights))
                keep = np.flatnonzero(best | _extreme(found) | (gain > 0))
                features.append(found[keep])
                gains.append(gain[keep])
                near.append(best[keep])
    return padded(features, gains, near)


def _extreme(features: FloatArray) -> NDArray[np.bool_]:
    """Returns which candidates have most of any one source: a network that never met those whom one source alone names puts them on top."""
    extreme = np.zeros(len(features), np.bool_)
    for place in _RANKED:
        column = features[:, place]
        if len(column) > EXTREME:
            extreme[np.argpartition(-column, EXTREME)[:EXTREME]] = True
    return extreme


def padded(features: Sequence[FloatArray], gains: Sequence[FloatArray], near: Sequence[NDArray[np.bool_]]) -> Cases:
    """Returns cases of (C, F) features, (C,) gains and (C,) near, C as it may be, as one array each."""
    width = max((len(rows) for rows in gains), default=0)
    shape = (len(gains), width)
    valid, close_by = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    cases = Cases(np.zeros((*shape, len(RANKER_FEATURES)), np.float32), valid, np.zeros(shape, np.float32), close_by)
    for place, (columns, gain, close) in enumerate(zip(features, gains, near, strict=True)):
        cases.features[place, : len(gain)] = columns
        cases.valid[place, : len(gain)] = True
        cases.gains[place, : len(gain)] = gain
        cases.near[place, : len(gain)] = close
    return cases


def _best(scores: FloatArray) -> NDArray[np.bool_]:
    """Returns which candidates are among the best `WIDTH`."""
    best = np.ones(len(scores), np.bool_)
    if len(scores) > WIDTH:
        best[np.argpartition(-scores, WIDTH)[WIDTH:]] = False
    return best
