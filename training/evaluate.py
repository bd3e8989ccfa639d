"""Fits on files, ranks all items for every test user, and compares with the baselines on the same split.

Shapes: B users, N items.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import ItemId
from server.errors import InvalidFieldError
from training import baselines
from training.data import Interactions, Progress, RawEvents, Vocabulary
from training.metrics import Estimate, Metric, coverage, estimates, target_ranks, top_items, user_values
from training.model import Model, Scorer, fit
from training.tuning import CASES, Fold, choose, with_view_weights

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

_FOLDS = 3
_LEAST_HISTORY = 3
"""Interactions of a user whose last one may be held out."""

_CELLS = 6_000_000
"""Scores held at once: blocks of users are cut to it, 24 MB an array."""


@dataclass(slots=True)
class Evaluation:
    """The table that `aisle evaluate` prints."""

    users: int
    items: int
    events: int
    seconds: float
    peak_rss_mb: float
    results: dict[str, dict[str, Estimate]]
    skipped: dict[str, str] = field(default_factory=dict)
    """Baseline -> why it is not in the table."""
    fusion: dict[str, float] = field(default_factory=dict)
    decays: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON object."""
        results = {name: {metric: found.to_json() for metric, found in row.items()} for name, row in self.results.items()}
        return {
            "users": self.users,
            "items": self.items,
            "events": self.events,
            "seconds": round(self.seconds, 1),
            "peak_rss_mb": round(self.peak_rss_mb),
            "results": results,
            "skipped": self.skipped,
            "fusion": self.fusion,
            "decays": self.decays,
        }


def evaluate(
    train: RawEvents,
    test: RawEvents,
    *,
    metrics: Sequence[Metric],
    validation: RawEvents | None = None,
    item_ids: Sequence[ItemId] = (),
    text_vectors: Callable[[Sequence[ItemId]], FloatArray] | None = None,
    with_ease: bool = False,
    progress: Progress = lambda _step, _share: None,
) -> Evaluation:
    """Returns metrics of Aisle and the baselines.

    The fusion is chosen on `validation`; without one, on the last interaction of each user. Everything is then fitted on all of train and
    validation, and every test user's items are ranked among all items not in the user's fitted rows.

    Args:
        train: Interactions to fit on.
        test: What each user did next. Users without fitted rows count too.
        metrics: What to compute.
        validation: Interactions between train and test.
        item_ids: Further items that are ranked.
        text_vectors: Gives float32, (N, 384), for all item ids; None evaluates without texts.
        with_ease: Runs EASE whatever the number of items.
        progress: Told about each step.

    Raises:
        InvalidFieldError: Train or test is empty.
    """
    started = time.monotonic()
    for name, part in (("train", train), ("test", test)):
        if not part.users:
            raise InvalidFieldError(name, "holds no interactions; give a file with at least one row that names an item")
    fitted_events = train + validation if validation is not None else train
    vocabulary = Vocabulary.of([fitted_events, test], item_ids)
    fitted, asked = vocabulary.encode(fitted_events), vocabulary.encode(test)
    texts = text_vectors(vocabulary.item_ids) if text_vectors is not None else None
    if validation is not None and validation.users:
        before, held_out = vocabulary.encode(train), vocabulary.encode(validation)
    else:
        last = fitted.last_of_each(least=_LEAST_HISTORY)
        before, held_out = fitted.select(~last), fitted.select(last)
    _, model = train_model(before, held_out, fitted, vocabulary.item_ids, texts, progress=progress)
    contenders = _contenders(model, fitted, with_ease=with_ease)
    skipped = {}
    if "ease" not in contenders:
        skipped["ease"] = f"{fitted.item_count} items are more than {baselines.EASE_LARGEST}; --ease runs it all the same"
    results = {}
    users = np.unique(asked.users)
    for name, make in contenders.items():
        results[name] = rank_users(name, make(), users, fitted, asked, metrics, progress=progress)
    return Evaluation(
        users=len(users),
        items=fitted.item_count,
        events=len(fitted.users),
        seconds=time.monotonic() - started,
        peak_rss_mb=peak_rss_mb(),
        results=results,
        skipped=skipped,
        fusion=model.weights.to_json(),
        decays={
            "transitions": model.decays.transitions,
            "cosine": model.decays.cosine,
            "collaborative": model.decays.collaborative,
        },
    )


def train_model(
    before: Interactions,
    held_out: Interactions,
    everything: Interactions,
    item_ids: tuple[ItemId, ...],
    texts: FloatArray | None,
    *,
    progress: Progress,
) -> tuple[Model, Model]:
    """Returns the models fitted on `before` and on everything, both with the fusion that ranks best what came after `before`."""
    progress("fitting without what is held out", 0.0)
    folds = [Fold(fit(before, item_ids, texts), before, held_out)]
    asked = len(held_out.users)
    while asked < CASES and len(folds) < _FOLDS:
        # Few cases choose badly, and little data is quick to fit: step back in time, as often as it takes.
        earlier = folds[-1].fitted
        last = earlier.last_of_each(least=_LEAST_HISTORY)
        if not last.any():
            break
        rest = earlier.select(~last)
        folds.append(Fold(fit(rest, item_ids, texts), rest, earlier.select(last)))
        asked += int(last.sum())
    draft = choose(folds, progress=progress)
    progress("fitting on everything", 0.0)
    final = with_view_weights(fit(everything, item_ids, texts).tuned(draft.weights, draft.decays))
    return draft, final


def peak_rss_mb() -> float:
    """Returns the most memory this process ever held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def aisle_scores(model: Model, fitted: Interactions) -> baselines.Baseline:
    """Returns the fused scores as a function of user rows."""
    scorer = Scorer(model)
    return lambda users: scorer.scores([fitted.history(user) for user in users.tolist()])


def _contenders(model: Model, fitted: Interactions, *, with_ease: bool) -> dict[str, Callable[[], baselines.Baseline]]:
    contenders: dict[str, Callable[[], baselines.Baseline]] = {
        "aisle": lambda: aisle_scores(model, fitted),
        "popularity": lambda: baselines.popularity(fitted),
        "item_knn": lambda: baselines.item_knn(fitted),
    }
    if with_ease or fitted.item_count <= baselines.EASE_LARGEST:
        contenders["ease"] = lambda: baselines.ease(fitted)
    return contenders


def rank_users(
    name: str,
    score: baselines.Baseline,
    users: IntArray,
    fitted: Interactions,
    asked: Interactions,
    metrics: Sequence[Metric],
    *,
    progress: Progress,
) -> dict[str, Estimate]:
    """Returns the metrics of one contender over `users`, who are asked for their items in `asked`; rows of `fitted` are not ranked."""
    widest = max((metric.k for metric in metrics if metric.kind == "coverage"), default=0)
    values, tops = [], []
    block = max(1, _CELLS // max(fitted.item_count, 1))
    for at in range(0, len(users), block):
        some = users[at : at + block]
        scores = np.array(score(some), np.float32)
        masked = [fitted.items[fitted.starts[user] : fitted.starts[user + 1]] for user in some.tolist()]
        targets = [np.unique(asked.items[asked.starts[user] : asked.starts[user + 1]]) for user in some.tolist()]
        values += [user_values(ranks, metrics) for ranks in target_ranks(scores, masked, targets)]
        if widest:
            tops.append(top_items(scores, widest))
        progress(f"ranking all items: {name}", min(at + block, len(users)) / len(users))
    found = dict(zip((metric.name for metric in metrics), estimates(np.array(values, np.float64)), strict=True))
    for metric in metrics:
        if metric.kind == "coverage":
            found[metric.name] = coverage(np.concatenate(tops)[:, : metric.k], fitted.item_count)
    return found
