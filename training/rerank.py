"""Ranks all items as the server does: candidates of every source, then the ranker; the rest behind them by the fusion.

Shapes: B users, N items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from server.retrieval.fusion import fused
from training.data import FloatArray, History
from training.model import Model, Scorer
from training.ranking_cases import Pool


def all_scores(model: Model, histories: Sequence[History]) -> FloatArray:
    """Returns the scores of all items for users by history, float32, (B, N), in the order that the server gives them.

    Where a network ranks, items that no source names follow the candidates. Items of the history are scored as the rest.
    """
    if model.ranker is None or model.ranker.network is None:
        return Scorer(model).scores(histories)
    pool = Pool(model)
    columns = pool.columns(histories)
    scores = np.array(fused(columns, model.weights), np.float32)
    for place, history in enumerate(histories):
        rows = pool.candidates(columns, place, history)
        if len(rows):
            best = model.ranker.scores(pool.features(columns, place, history, rows))
            scores[place] += best.min() - scores[place].max() - 1
            scores[place, rows] = best
    return scores
