"""Fits on files, ranks all items for every test user, and compares with the baselines on the same split.

Shapes: B users, N items.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import ItemId
from server.domain.items import Item
from server.errors import InvalidFieldError
from training import baselines
from training.cases import draw_cases
from training.data import Interactions, Progress, RawEvents, Vocabulary
from training.learn import Learning
from training.metrics import Estimate, Metric
from training.model import Model
from training.notes import asked_notes, overlap_notes
from training.pipeline import Task, train_model
from training.ranks import Ranking, judge, list_length_for, rank_users
from training.rerank import all_scores
from training.splits import held_out
from training.views.semantic_map import ItemTexts
from training.views.sequential.fit import Sequential

FloatArray: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Study:
    """What a report is made from: one pass over all items by every contender."""

    model: Model
    """The contender `aisle`, fitted on `fitted`."""
    fitted: Interactions
    asked: Interactions
    rankings: dict[str, Ranking]
    """By contender, all of the same users; empty where nothing could be held out."""
    learning: Learning | None = None
    """How the ranker was judged; None where nothing could be held out."""
    validated: Sequential | None = None
    """The sequential view whose training was watched on held-out interactions."""

    @classmethod
    def unjudged(cls, model: Model, fitted: Interactions) -> Study:
        """Returns the study of a model that nothing was held out from."""
        return cls(model, fitted, fitted.select(np.zeros(len(fitted.users), np.bool_)), {})


@dataclass(slots=True)
class Evaluation:
    """The table that `aisle evaluate` prints."""

    users: int
    items: int
    events: int
    seconds: float
    peak_rss_mb: float
    results: dict[str, dict[str, Estimate]]
    study: Study
    """What the results were computed from."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Baseline -> why it is not in the table."""
    notes: list[str] = field(default_factory=list)
    """What is odd about the data, what is off, and what went wrong on the way, one sentence each."""
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
            "notes": self.notes,
            "fusion": self.fusion,
            "decays": self.decays,
        }


def evaluate(
    train: RawEvents,
    test: RawEvents,
    *,
    metrics: Sequence[Metric],
    validation: RawEvents | None = None,
    items: Sequence[Item] = (),
    text_vectors: Callable[[Sequence[ItemId]], FloatArray] | None = None,
    with_ease: bool = False,
    checkpoints: Path | None = None,
    progress: Progress = lambda _step, _share: None,
) -> Evaluation:
    """Returns metrics of Aisle and the baselines.

    The fusion is chosen on `validation`; without one, as `splits.held_out` says. Everything is then fitted on all of train and
    validation, and every test user's items are ranked among all items not in the user's fitted rows. Events that count nothing, such as
    hide, are no wish and are not asked for. `Evaluation.notes` says where the data did not suffice.

    Args:
        train: Interactions to fit on.
        test: What each user did next. Users without fitted rows count too.
        metrics: What to compute.
        validation: Interactions between train and test.
        items: What is known of items; those without events are ranked too.
        text_vectors: Gives float32, (N, 384), for all item ids; None evaluates without texts.
        with_ease: Runs EASE whatever the number of items.
        checkpoints: Folder where an interrupted training is gone on with; None keeps nothing.
        progress: Told about each step.

    Raises:
        InvalidFieldError: Train or test is empty, or no event of the test counts.
    """
    started = time.monotonic()
    for name, part in (("train", train), ("test", test)):
        if not part.users:
            raise InvalidFieldError(name, "holds no interactions; give a file with at least one row that names an item")
    fitted_events = train + validation if validation is not None else train
    vocabulary = Vocabulary.of([fitted_events, test], [item.item_id for item in items])
    fitted, asked = vocabulary.encode(fitted_events), vocabulary.encode(test)
    notes = asked_notes(fitted, asked)
    asked = asked.select(asked.weights > 0)
    if not len(asked.users):
        raise InvalidFieldError("test", "holds only events that count nothing, such as hide; give what users liked")
    texts = None
    if text_vectors is not None:
        texts = ItemTexts.of(vocabulary.item_ids, text_vectors(vocabulary.item_ids), items)
    given = (vocabulary.encode(train), vocabulary.encode(validation)) if validation is not None else None
    before, after = _split(fitted, given, notes.append)
    task = Task(
        item_ids=vocabulary.item_ids,
        event_types=vocabulary.event_types,
        items=items,
        texts=texts,
        checkpoints=checkpoints,
        progress=progress,
        note=notes.append,
    )
    draft, model, learning = train_model(before, after, fitted, task, worth=after.weights)
    contenders = _contenders(model, fitted, with_ease=with_ease)
    skipped = {}
    if "ease" not in contenders:
        skipped["ease"] = f"{fitted.item_count} items are more than {baselines.EASE_LARGEST}; --ease runs it all the same"
    users, length = np.unique(asked.users), list_length_for(metrics)
    rankings = {
        name: rank_users(name, make(), users, fitted, asked, list_length=length, progress=progress) for name, make in contenders.items()
    }
    results = judge(rankings, metrics)
    return Evaluation(
        users=len(users),
        items=fitted.item_count,
        events=len(fitted.users),
        seconds=time.monotonic() - started,
        peak_rss_mb=peak_rss_mb(),
        results=results,
        study=Study(model, fitted, asked, rankings, learning, draft.sequential),
        skipped=skipped,
        notes=list(dict.fromkeys(notes)),
        fusion=model.weights.to_json(),
        decays=asdict(model.decays),
    )


def _split(
    fitted: Interactions, given: tuple[Interactions, Interactions] | None, note: Callable[[str], None]
) -> tuple[Interactions, Interactions]:
    """Returns what to fit the draft on and what to choose the fusion on: train and validation if given and of use."""
    if given is not None:
        for sentence in overlap_notes(*given):
            note(sentence)
        if draw_cases(*given, 1, seed=0):
            return given
        note("validation holds nothing new of a user of train: the newest of both chooses the fusion instead")
    chooses, before = held_out(fitted)
    return fitted.select(before), fitted.select(chooses)


def peak_rss_mb() -> float:
    """Returns the most memory this process ever held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def aisle_scores(model: Model, fitted: Interactions) -> baselines.Baseline:
    """Returns the scores that serve as a function of user rows."""
    return lambda users: all_scores(model, [fitted.history(user) for user in users.tolist()])


def _contenders(model: Model, fitted: Interactions, *, with_ease: bool) -> dict[str, Callable[[], baselines.Baseline]]:
    contenders: dict[str, Callable[[], baselines.Baseline]] = {
        "aisle": lambda: aisle_scores(model, fitted),
        "popularity": lambda: baselines.popularity(fitted),
        "item_knn": lambda: baselines.item_knn(fitted),
    }
    if with_ease or fitted.item_count <= baselines.EASE_LARGEST:
        contenders["ease"] = lambda: baselines.ease(fitted)
    return contenders
