"""The one default way from interactions to a model: fit without what is held out, choose the fusion on it, fit on everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from server.domain.ids import ItemId
from server.domain.items import Item
from training.cases import draw_cases
from training.counting import Counts, count
from training.data import FloatArray, Interactions, Progress
from training.learn import Learning, learn
from training.model import Model, fit, with_facts
from training.ranking import Logged, ranking_cases
from training.set_aside import set_aside
from training.splits import LEAST_HISTORY
from training.tuning import CASES, Fold, choose, with_view_weights
from training.views.collaborative import Factors
from training.views.contextual import Contexts, learn_context
from training.views.semantic_map import ItemTexts
from training.views.sequential.fit import SequenceTask, Sequential, fit_sequential, missing_reason

_FOLDS = 3
_FEW = 2000
"""Held-out cases that suffice where a transformer has to be trained for each further fold."""


class Engine(Protocol):
    """Where the two stages that cost most are computed."""

    def count(self, interactions: Interactions) -> Counts:
        """Returns what `training.counting.count` does."""
        ...

    def fit_sequential(
        self, interactions: Interactions, task: SequenceTask, *, held_out: Interactions | None = None, epochs: int | None = None
    ) -> Sequential | None:
        """Returns what `training.views.sequential.fit.fit_sequential` does, up to chance."""
        ...


class ThisProcess:
    """The engine that needs nothing else."""

    def count(self, interactions: Interactions) -> Counts:
        """Counts here."""
        return count(interactions)

    def fit_sequential(
        self, interactions: Interactions, task: SequenceTask, *, held_out: Interactions | None = None, epochs: int | None = None
    ) -> Sequential | None:
        """Trains here."""
        return fit_sequential(interactions, task, held_out=held_out, epochs=epochs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every fit of one run shares."""

    item_ids: tuple[ItemId, ...]
    event_types: tuple[str, ...]
    """Behind the rows of `Interactions.kinds`."""
    items: Sequence[Item] = ()
    """What is known of items."""
    texts: ItemTexts | None = None
    """None where no item has a text."""
    contexts: Contexts | None = None
    """None where nothing is known of users but what they did."""
    sequential: bool = True
    """Whether to train the sequential view, which takes most of the time."""
    checkpoints: Path | None = None
    """Folder where an interrupted run is found again; None keeps nothing."""
    engine: Engine = field(default_factory=ThisProcess)
    progress: Progress = lambda _step, _share: None
    note: Callable[[str], None] = lambda _sentence: None
    """Told, a sentence each, what is off and why."""


def train_model(
    before: Interactions,
    held_out: Interactions,
    everything: Interactions,
    task: Task,
    *,
    worth: FloatArray,
    logged: Logged | None = None,
) -> tuple[Model, Model, Learning]:
    """Returns the models fitted on `before` and on everything, both with what ranks best what came after `before`, and how that was judged.

    Args:
        before: Where the histories come from.
        held_out: What came next.
        everything: What the second model is fitted on.
        task: What the fits share.
        worth: float32, (E,): what each held-out interaction is worth; 0 leaves it out of the ranker's learning.
        logged: Lists that were shown, if any are known.
    """
    task.progress("fitting without what is held out", 0.0)
    view = _fit_view(before, task, held_out=held_out)
    if view is None and task.sequential and (reason := missing_reason(before, held_out)):
        task.note(reason)
    epochs = view.epochs if view is not None else 0
    folds = [Fold(_fit(before, task, view), before, held_out)]
    asked = len(held_out.users)
    # Few cases choose badly, and counting is quick: step back in time, as often as it takes. A transformer a fold is dear: one step, only
    # where cases are so few that training is quick too.
    enough, most = (CASES, _FOLDS) if view is None else (_FEW, 2)
    while asked < enough and len(folds) < most:
        earlier = folds[-1].fitted
        last = earlier.last_of_each(least=LEAST_HISTORY)
        if not last.any():
            break
        rest = earlier.select(~last)
        folds.append(Fold(_fit(rest, task, _fit_view(rest, task, epochs=epochs) if epochs else None), rest, earlier.select(last)))
        asked += int(last.sum())
    if not any(draw_cases(fold.fitted, fold.held_out, 1, seed=0) for fold in folds):
        task.note("no user has a new item that could be held out: the fusion is the default")
    draft = choose(folds, progress=task.progress)
    if task.contexts is not None:
        draft = with_view_weights(learn_context(draft, before, held_out, task.contexts, progress=task.progress, note=task.note))
    task.progress("fitting on everything", 0.0)
    # A view that did not earn a weight is not worth the time of the second fit.
    last_view = _fit_view(everything, task, epochs=epochs) if epochs and draft.weights.sequential else None
    if view is not None and not draft.weights.sequential:
        task.note("the sequential view gained nothing on what was held out: it is off")
    cases = ranking_cases(draft, before, held_out, worth, logged=logged, progress=task.progress)
    learning = learn(cases, draft.weights, progress=task.progress)
    draft = replace(draft, ranker=learning.ranker)
    fitted = replace(_fit(everything, task, last_view), context_axes=draft.context_axes)
    if last_view is None and draft.weights.sequential:  # the second training failed: what was learned with the view is worth nothing
        return draft, with_view_weights(fitted.tuned(replace(draft.weights, sequential=0.0), draft.decays)), learning
    return draft, replace(with_view_weights(fitted.tuned(draft.weights, draft.decays)), ranker=learning.ranker), learning


def fit_alone(everything: Interactions, task: Task) -> Model:
    """Returns the model with the default fusion, where too little can be held out to choose one. Trains no sequential view."""
    if task.sequential:
        task.note(missing_reason(everything) or "too little can be held out to tell when to stop: the sequential view is off")
    return with_view_weights(_fit(everything, task, None))


def _fit(interactions: Interactions, task: Task, view: Sequential | None) -> Model:
    counts = task.engine.count(interactions)
    model = fit(interactions, task.item_ids, task.texts, sequential=view, event_types=task.event_types, counts=counts)
    factors = Factors(set_aside(model.factors.incoming), set_aside(model.factors.outgoing))
    return with_facts(replace(model, factors=factors), task.items)


def _fit_view(
    interactions: Interactions, task: Task, *, held_out: Interactions | None = None, epochs: int | None = None
) -> Sequential | None:
    if not task.sequential:
        return None
    vectors = task.texts.vectors if task.texts is not None else None
    sequence = SequenceTask(event_types=task.event_types, texts=vectors, checkpoints=task.checkpoints, progress=task.progress)
    view = task.engine.fit_sequential(interactions, sequence, held_out=held_out, epochs=epochs)
    if view is not None and view.trouble:
        task.note(f"sequential view: {view.trouble}")
    if view is None or not view.epochs:
        return None
    return replace(view, space=replace(view.space, items=set_aside(view.space.items)))
