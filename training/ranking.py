"""From a model and what its users did next to the cases that its ranker learns from.

Shapes: E held-out interactions, S cases, F ranker features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from server.retrieval.affinity import wishes
from training.cases import few_of_each
from training.data import FloatArray, IntArray, Interactions, Progress, Vocabulary
from training.learn import ENOUGH_CASES
from training.model import Model
from training.outcomes import Happened, Shown, outcomes
from training.ranking_cases import Case, Cases, Pool, padded, sampled_cases

_CASES = 6_000
"""Held-out cases drawn. More sharpen the estimate of a gain of one hundredth; each costs about a millisecond."""

_OF_A_USER = 2
"""Of those, of one user. Their candidates are much the same, and a network costs twenty times what a fusion does."""

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Logged:
    """Lists that were shown."""

    shown: Sequence[Shown]
    vocabulary: Vocabulary
    """Of the model's users and items."""


def ranking_cases(
    draft: Model,
    before: Interactions,
    held_out: Interactions,
    worth: FloatArray,
    *,
    logged: Logged | None,
    progress: Progress,
) -> Cases:
    """Returns what the ranker learns from.

    Lists that were shown teach where enough of them led to something; else the held-out interactions do, among what the server would have
    ranked.

    Args:
        draft: Fitted on `before`, its fusion chosen.
        before: Where the histories come from.
        held_out: What came next.
        worth: float32, (E,): what each held-out interaction is worth; 0 leaves it out.
        logged: Lists that were shown, if any are known.
        progress: Told about each step.
    """
    if logged is not None and len(logged.shown) >= ENOUGH_CASES:
        cases = logged_cases(draft, before, held_out, worth, logged)
        if len(cases) >= ENOUGH_CASES:
            return cases
    progress("making cases for the ranker", 0.0)
    places = _draw(before, held_out, worth)
    histories = [before.history(user) for user in held_out.users[places].tolist()]
    return sampled_cases(draft, histories, held_out.items[places].tolist(), worth[places].tolist())


def _draw(before: Interactions, held_out: Interactions, worth: FloatArray, *, seed: int = 0) -> IntArray:
    """Returns places of held-out interactions that are worth something, new to their user, and not the user's first; few of each user."""
    new = ~np.isin(held_out.pairs(), before.pairs())
    known = np.diff(before.starts)[held_out.users] > 0
    places = np.random.default_rng(seed).permutation(np.flatnonzero(new & known & (worth > 0)))
    return places[few_of_each(held_out.users[places], _OF_A_USER)][:_CASES]


def logged_cases(draft: Model, before: Interactions, held_out: Interactions, worth: FloatArray, logged: Logged) -> Cases:
    """Returns a case for each list that a held-out interaction came of.

    Its candidates are what was shown without what the user is known to have had, which the model was fitted on. Its features are those of
    the moment: the history ends before the list.
    """
    users, items = logged.vocabulary.user_ids, logged.vocabulary.item_ids
    happened = (
        Happened(users[user], items[item], value, time)
        for user, item, value, time in zip(
            held_out.users.tolist(), held_out.items.tolist(), worth.tolist(), held_out.times.tolist(), strict=True
        )
    )
    answered = [(one, done) for one, done in zip(logged.shown, outcomes(logged.shown, happened), strict=True) if done]
    user_row, item_row = ({name: row for row, name in enumerate(names)} for names in (users, items))
    pool = Pool(draft)
    cases: list[Case] = []
    for at in range(0, len(answered), _BLOCK):
        block = answered[at : at + _BLOCK]
        rows_of_users = [user_row[one.user_id] for one, _ in block]
        histories = [before.history_before(user, one.time_s) for user, (one, _) in zip(rows_of_users, block, strict=True)]
        columns = pool.columns(histories)
        for place, (user, (one, done)) in enumerate(zip(rows_of_users, block, strict=True)):
            had = before.items[before.starts[user] : before.starts[user + 1]]
            rows = np.array([item_row[item_id] for item_id in one.items if item_id in item_row], np.int64)
            rows = rows[~np.isin(rows, had)]
            gain = np.array([done.get(items[row], 0.0) for row in rows.tolist()], np.float32)
            if gain.any():
                cases.append(Case.whole(pool.features(columns, place, histories[place], rows, wishes(one.context)), gain))
    return padded(cases)
