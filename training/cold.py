"""How well the semantic view ranks items that training never saw, beside plain TF-IDF and text vectors.

Shapes: B users, N items, W warm and C cold items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from server.domain.ids import ItemId
from server.domain.items import Item, item_text
from server.errors import InvalidFieldError
from server.retrieval.semantic import item_terms
from training import baselines
from training.counting import user_items
from training.data import Interactions, Progress, RawEvents, Vocabulary
from training.metrics import Estimate, Metric, estimates, target_ranks, user_values
from training.model import semantic_views_of
from training.views.semantic_map import ItemTexts, fit_semantic

FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]

_BLOCK = 1024
_SEED = 0


@dataclass(frozen=True, slots=True)
class ColdEvaluation:
    """The tables that `aisle evaluate --cold` prints."""

    cold_items: int
    warm_events: int
    users: dict[str, int]
    """What is asked for -> users asked."""
    results: dict[str, dict[str, dict[str, Estimate]]]
    """What is asked for -> contender -> metric -> estimate."""

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON object."""
        tables = {
            asked: {name: {metric: found.to_json() for metric, found in row.items()} for name, row in table.items()}
            for asked, table in self.results.items()
        }
        return {"cold_items": self.cold_items, "warm_events": self.warm_events, "users": self.users, "results": tables}


def evaluate_cold(
    fitted: RawEvents,
    test: RawEvents,
    *,
    share: float,
    items: Sequence[Item],
    text_vectors: Callable[[Sequence[ItemId]], FloatArray],
    metrics: Sequence[Metric],
    progress: Progress = lambda _step, _share: None,
) -> ColdEvaluation:
    """Returns metrics among the cold items: a share of all items, drawn with seed 0, that is taken out of everything before fitting.

    Every contender sees a user's warm items of `fitted`, and each user with one of them is asked twice: for the cold items of `test`
    (`test`), and for those of all events (`all`). The second has many more cases, but some lie before the history that is seen.

    Args:
        fitted: Interactions to fit on.
        test: What came next.
        share: Of the items that are cold, in (0, 1).
        items: With their texts; events on others are left out.
        text_vectors: Gives float32, (N, 384), for item ids.
        metrics: What to compute.
        progress: Told about each step.

    Raises:
        InvalidFieldError: No user has both a warm and a cold item.
    """
    by_id = {item.item_id: item for item in items}
    vocabulary = Vocabulary.of([_of_items(fitted, by_id), _of_items(test, by_id)], by_id)
    before, after = (_wanted(vocabulary.encode(_of_items(events, by_id))) for events in (fitted, test))
    cold = np.zeros(len(vocabulary.item_ids), np.bool_)
    cold[np.random.default_rng(_SEED).permutation(len(cold))[: round(share * len(cold))]] = True
    known = [by_id[item_id] for item_id in vocabulary.item_ids]
    texts = ItemTexts(text_vectors(vocabulary.item_ids), [item_terms(item) for item in known])
    warm = before.select(~cold[before.items])
    contenders = _contenders(warm, cold, known, texts, progress)
    held = [user_items(events) for events in (before, after)]
    places = np.flatnonzero(cold)
    asked = {"test": held[1][:, places], "all": held[0][:, places].maximum(held[1][:, places])}
    users, results = {}, {}
    for name, targets in asked.items():
        able = np.flatnonzero((np.diff(warm.starts) > 0) & (np.diff(targets.tocsr().indptr) > 0))
        if not len(able):
            raise InvalidFieldError("cold", "leaves no user with both a warm and a cold item; give more events or another share")
        users[name] = len(able)
        progress(f"ranking cold items: {name}", 0.0)
        results[name] = {who: _rank(score, able, targets.tocsr(), metrics) for who, score in contenders.items()}
    return ColdEvaluation(len(places), len(warm.users), users, results)


def _of_items(events: RawEvents, items: Mapping[ItemId, Item]) -> RawEvents:
    return events.select(np.fromiter((item in items for item in events.items), np.bool_, len(events.items)))


def _wanted(interactions: Interactions) -> Interactions:
    return interactions.select(interactions.weights > 0)


def _contenders(
    warm: Interactions, cold: BoolArray, items: Sequence[Item], texts: ItemTexts, progress: Progress
) -> dict[str, baselines.Baseline]:
    """Returns functions of user rows that score the cold items, float32, (B, C)."""
    progress("learning the semantic view", 0.0)
    rows = np.flatnonzero(~cold)
    semantic = fit_semantic(user_items(warm)[:, rows], ItemTexts(texts.vectors[rows], [texts.terms[row] for row in rows.tolist()]))
    views = texts.mapped(semantic)
    tfidf = baselines.tfidf([item_text(item) for item in items])
    held = user_items(warm)
    return {
        "aisle": lambda users: semantic_views_of(views, [warm.history(user) for user in users.tolist()]) @ views[cold].T,
        "tfidf": lambda users: np.asarray((held[users] @ tfidf @ tfidf[np.flatnonzero(cold)].T).toarray(), np.float32),
        "minilm_mean": lambda users: np.asarray((held[users] @ texts.vectors) @ texts.vectors[cold].T, np.float32),
    }


def _rank(score: baselines.Baseline, users: NDArray[np.int64], targets: sp.csr_matrix, metrics: Sequence[Metric]) -> dict[str, Estimate]:
    values = []
    nothing = np.zeros(0, np.int64)
    for at in range(0, len(users), _BLOCK):
        some = users[at : at + _BLOCK]
        wanted = [np.sort(targets.indices[targets.indptr[user] : targets.indptr[user + 1]]) for user in some.tolist()]
        values += [user_values(ranks, metrics) for ranks in target_ranks(score(some), [nothing] * len(some), wanted)]
    return dict(zip((metric.name for metric in metrics), estimates(np.array(values, np.float64)), strict=True))
