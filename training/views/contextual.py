"""Learns how much the axes of a request's features count against each other in the contextual view, and the view against the other sources.

Shapes: S cases, A axes, C candidates of a case, N items, D = 384 dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import ItemId, UserId
from server.domain.items import Item
from server.domain.profiles import Profile
from server.domain.ranking import VIEW_DIMENSIONS
from server.retrieval.context import AXES, axis_of, item_features, request_features
from server.retrieval.vectors import hash_features, hashed
from training.cases import best_rows, draw_cases
from training.data import History, Interactions, Progress
from training.metrics import is_better
from training.model import Model, Scorer
from training.set_aside import set_aside

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

ENOUGH_CASES = 100
"""Held-out cases of users of whom a fact is known, below which nothing is learned."""

_CASES = 1000
_BEST = 150
"""Items that a case keeps of each order of all items: by the fusion without context, by all axes alike, and by each axis."""
_BLOCK = 64
_AXIS_GRID = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
"""The least is not 0: what nothing was learned of now may tell later, and a request that names one axis alone is ranked by it."""

_WEIGHT_GRID = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
_ROUNDS = 4
_DEPTH = 100
"""NDCG of the first hundred chooses, as in `training.tuning`."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """What is known of users besides what they do, and of items besides who chose them."""

    items: FloatArray
    """float32, (N, D): contextual views."""
    profiles: Mapping[int, Profile]
    """By row of the user; users of whom nothing is known are absent."""

    @classmethod
    def of(
        cls, item_ids: Sequence[ItemId], items: Sequence[Item], user_ids: Sequence[UserId], profiles: Mapping[UserId, Profile]
    ) -> Contexts:
        """Returns what is known, in the rows of these ids."""
        known = {item.item_id: item for item in items}
        views = np.zeros((len(item_ids), VIEW_DIMENSIONS), np.float32)
        for row, item_id in enumerate(item_ids):
            if item_id in known:
                views[row] = hash_features(item_features(known[item_id]))
        rows = {row: profiles[user_id] for row, user_id in enumerate(user_ids) if user_id in profiles}
        return cls(set_aside(views), rows)

    def features(self, user: int, time_s: float) -> dict[str, float]:
        """Returns the features of a request by a user at a moment, in seconds since 1970; none for one of whom nothing is known."""
        profile = self.profiles.get(user)
        return request_features({}, profile, now=datetime.fromtimestamp(time_s, UTC)) if profile is not None else {}


class _Asked(NamedTuple):
    """One case."""

    history: History
    features: Mapping[str, float]
    """Of the request."""
    target: int
    """Row of the item."""


@dataclass(slots=True)
class _Cases:
    """Candidates of every case, padded."""

    base: FloatArray
    """float32, (S, C): scores without context; -inf for padding."""
    parts: FloatArray
    """float32, (S, A, C): products of each axis, before weights, with the items."""
    gram: FloatArray
    """float32, (S, A, A): products of the axes among each other, from which lengths come."""
    target: IntArray
    """(S,): place of the target."""

    def gains(self, axes: FloatArray, weight: float) -> NDArray[np.float64]:
        """Returns the NDCG@100 of each case's target, (S,)."""
        lengths = np.sqrt(np.maximum(np.einsum("a,sab,b->s", axes, self.gram, axes), 1e-12))
        context = np.einsum("a,sac->sc", axes, self.parts) / lengths[:, None]
        scores = self.base + np.float32(weight) * context
        own = np.take_along_axis(scores, self.target[:, None], axis=1)  # (S, 1)
        before = np.arange(scores.shape[1])[None, :] < self.target[:, None]
        ranks = (scores > own).sum(axis=1) + ((scores == own) & before).sum(axis=1)
        return np.asarray(np.where(ranks < _DEPTH, 1 / np.log2(ranks + 2.0), 0.0), np.float64)


def learn_context(
    draft: Model, before: Interactions, held_out: Interactions, contexts: Contexts, *, progress: Progress, note: Callable[[str], None]
) -> Model:
    """Returns the draft with the weights of axes, and of the contextual view, that rank held-out items best, by coordinate search.

    Users are asked as strangers for the first thing that they did, and with their history for what was held out, where that is new: where
    there is no history a context is most of what is known, and where there is one the weights must not hurt. A change is kept only if it
    gains more than one standard error.

    Args:
        draft: Fitted on `before`, its fusion chosen.
        before: Where the histories come from.
        held_out: What came next.
        contexts: What is known of users and items.
        progress: Told about each step.
        note: Told where too little is known to learn from.
    """
    strangers, known = _strangers(before, contexts), _known(before, held_out, contexts)
    if len(strangers) < ENOUGH_CASES:
        note(f"facts are known of {len(strangers)} users, fewer than {ENOUGH_CASES}: all that a context says counts alike")
        return draft
    progress("learning what of the context counts", 0.0)
    cases = _prepare(Scorer(draft), [*strangers, *known], contexts.items, progress)
    axes, weight = np.ones(len(AXES), np.float32), draft.weights.contextual
    best = cases.gains(axes, weight)
    for number in range(_ROUNDS):
        start = axes.tolist(), weight
        for trial in _WEIGHT_GRID:
            found = cases.gains(axes, trial)
            if is_better(found - best):
                best, weight = found, trial
        for place in range(len(AXES)):
            for value in _AXIS_GRID:
                changed = axes.copy()
                changed[place] = value
                found = cases.gains(changed, weight)
                if is_better(found - best):
                    best, axes = found, changed
        progress(f"learning what of the context counts: ndcg@{_DEPTH} {best.mean():.4f}", (number + 1) / _ROUNDS)
        if (axes.tolist(), weight) == start:
            break
    learned = dict(zip(AXES, axes.tolist(), strict=True))
    return replace(draft, weights=replace(draft.weights, contextual=weight), context_axes=learned)


def _strangers(before: Interactions, contexts: Contexts) -> list[_Asked]:
    """Returns the first thing done by users of whom something was known then."""
    found: list[_Asked] = []
    for user in np.random.default_rng(0).permutation(np.unique(before.users)).tolist():
        places = np.arange(before.starts[user], before.starts[user + 1])
        places = places[before.weights[places] > 0]
        if len(places) and len(found) < _CASES and (features := contexts.features(user, float(before.times[places[0]]))):
            found.append(_Asked(_nobody(before), features, int(before.items[places[0]])))
    return found


def _known(before: Interactions, held_out: Interactions, contexts: Contexts) -> list[_Asked]:
    """Returns what was held out and new to its user, with the history."""
    times = {(int(user), int(item)): float(time) for user, item, time in zip(held_out.users, held_out.items, held_out.times, strict=True)}
    drawn = draw_cases(before, held_out, _CASES, seed=0)
    asked = (_Asked(before.history(user), contexts.features(user, times[user, item]), item) for user, item in drawn)
    return [one for one in asked if one.features]


def _nobody(interactions: Interactions) -> History:
    return History(interactions.items[:0], interactions.weights[:0], interactions.kinds[:0], interactions.times[:0])


def _prepare(scorer: Scorer, asked: Sequence[_Asked], items: FloatArray, progress: Progress) -> _Cases:
    queries = np.stack([[hashed(_of_axis(one.features, axis)) for axis in AXES] for one in asked])  # (S, A, D)
    kept: list[tuple[FloatArray, FloatArray]] = []
    places: list[int] = []
    for at in range(0, len(asked), _BLOCK):
        some = asked[at : at + _BLOCK]
        base = scorer.scores([one.history for one in some])
        for row, one in enumerate(some):
            parts = np.asarray(queries[at + row] @ items.T, np.float32)  # (A, N)
            orders = (base[row], parts.sum(axis=0), *parts[parts.any(axis=1)])
            rows = np.setdiff1d(np.concatenate([best_rows(order, _BEST) for order in orders]), one.history.rows)
            rows = np.union1d(rows, one.target)
            kept.append((base[row, rows], parts[:, rows]))
            places.append(int(np.searchsorted(rows, one.target)))
        progress("learning what of the context counts", min(1.0, (at + _BLOCK) / len(asked)))
    width = max(len(scores) for scores, _ in kept)
    base_scores = np.full((len(kept), width), -np.inf, np.float32)
    all_parts = np.zeros((len(kept), len(AXES), width), np.float32)
    for case, (scores, parts) in enumerate(kept):
        base_scores[case, : len(scores)] = scores
        all_parts[case, :, : len(scores)] = parts
    gram = np.asarray(np.einsum("sad,sbd->sab", queries, queries), np.float32)
    return _Cases(base_scores, all_parts, gram, np.array(places, np.int64))


def _of_axis(features: Mapping[str, float], axis: str) -> dict[str, float]:
    return {name: weight for name, weight in features.items() if axis_of(name) == axis}
