"""What each source of the fusion is worth: alone, and taken away.

Shapes: B users, N items, M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.retrieval.fusion import FusionWeights, fused
from training.data import Interactions, Progress
from training.metrics import Estimate, estimates, parse_metrics, target_ranks, user_values
from training.model import Model, Scorer
from training.ranks import CELLS, hidden_items

METRICS = parse_metrics("hr@10,ndcg@10")
USERS = 4000
"""Users asked at most: the third digit does not need more, and every variant ranks all items for each."""

_COLUMNS_HELD = 9
"""Arrays of all items that a block keeps at once; it is cut so that together they hold no more than a ranking's two do."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A fusion of the same columns."""

    source: str
    """Empty for the whole fusion."""
    alone: bool
    weights: FusionWeights
    silent: frozenset[str] = field(default=frozenset())
    """Columns taken as zero."""

    def score(self, columns: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Returns the fused score, shaped like the column `transitions`."""
        return fused({name: np.zeros_like(column) if name in self.silent else column for name, column in columns.items()}, self.weights)


@dataclass(frozen=True, slots=True)
class Worth:
    """What one source is worth."""

    source: str
    alone: Mapping[str, Estimate]
    without: Mapping[str, Estimate]
    change: Estimate
    """NDCG@10 without the source less that of the whole fusion, user by user."""

    def to_json(self) -> dict[str, Any]:
        """Returns the row by name."""
        return {"source": self.source, "alone": _json(self.alone), "without": _json(self.without), "change": self.change.to_json()}


@dataclass(frozen=True, slots=True)
class Ablation:
    """The table, of the users drawn."""

    users: int
    whole: Mapping[str, Estimate]
    rows: tuple[Worth, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the table as the report writes it."""
        return {"users": self.users, "whole": _json(self.whole), "rows": [row.to_json() for row in self.rows]}


def sources(weights: FusionWeights) -> list[str]:
    """Returns what the fusion gives a weight to, by the names of its weights."""
    names = (field.name for field in fields(weights) if not field.name.endswith(("_floor", "_mix")))
    return [name for name in names if getattr(weights, name)]


def variants(weights: FusionWeights) -> Iterator[Variant]:
    """Yields the whole fusion, and each source alone and removed; the two shares of the sparse source also apart."""
    yield Variant("", alone=False, weights=weights)
    used = sources(weights)
    for source in used:
        yield Variant(source, alone=True, weights=replace(weights, **{other: 0.0 for other in used if other != source}))
        yield Variant(source, alone=False, weights=replace(weights, **{source: 0.0}))
    if "sparse" in used and weights.cosine_mix:
        sparse = replace(weights, **{other: 0.0 for other in used if other != "sparse"})
        for source, other in (("transitions", "cosine"), ("cosine", "transitions")):
            yield Variant(source, alone=True, weights=sparse, silent=frozenset({other}))
            yield Variant(source, alone=False, weights=weights, silent=frozenset({source}))


def ablate(model: Model, fitted: Interactions, asked: Interactions, *, progress: Progress, most: int = USERS, seed: int = 0) -> Ablation:
    """Returns what each source of the model's fusion is worth. The fusion is not chosen anew for what is left.

    Columns are computed once for a block of users and fused by every variant.

    Args:
        model: Fitted on `fitted`.
        fitted: Histories, which are not ranked.
        asked: At least one user's targets.
        progress: Told after each block.
        most: Users drawn at most.
        seed: Of the draw.
    """
    users = np.unique(asked.users)
    if len(users) > most:
        users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
    plans = list(variants(model.weights))
    values = np.zeros((len(plans), len(users), len(METRICS)))
    scorer = Scorer(model)
    block = max(1, 2 * CELLS // (_COLUMNS_HELD * max(fitted.item_count, 1)))
    for at in range(0, len(users), block):
        some = users[at : at + block]
        columns = scorer.columns([fitted.history(user) for user in some.tolist()])
        hidden = hidden_items(fitted, some)
        wanted = [np.unique(asked.items[asked.starts[user] : asked.starts[user + 1]]) for user in some.tolist()]
        for number, plan in enumerate(plans):
            ranks = target_ranks(plan.score(columns), hidden, wanted)
            values[number, at : at + block] = [user_values(one, METRICS) for one in ranks]
        progress("ranking without each source", min(at + block, len(users)) / len(users))
    return _table(plans, values)


def _table(plans: list[Variant], values: NDArray[np.float64]) -> Ablation:
    found = {(plan.source, plan.alone): row for plan, row in zip(plans, values, strict=True)}
    whole = found["", False]
    rows = []
    for source in dict.fromkeys(plan.source for plan in plans if plan.source):
        without = found[source, False]
        (change,) = estimates((without - whole)[:, 1:])
        rows.append(Worth(source, _estimated(found[source, True]), _estimated(without), change))
    return Ablation(len(whole), _estimated(whole), tuple(rows))


def _estimated(values: NDArray[np.float64]) -> dict[str, Estimate]:
    return {metric.name: found for metric, found in zip(METRICS, estimates(values), strict=True)}


def _json(row: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {metric: found.to_json() for metric, found in row.items()}
