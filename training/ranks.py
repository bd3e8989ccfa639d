"""One pass over all items for every test user; whatever is measured afterwards is a pure function of what it found.

Shapes: U users, T targets of all users together, K places of a list, N items, M metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.baselines import Baseline
from training.data import Interactions, Progress
from training.metrics import Estimate, Metric, coverage, estimates, target_ranks, top_items, user_values

IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]

LIST_LENGTH = 10
"""Places of a list that are kept even if no metric asks for them: what is shown is judged on them."""

CELLS = 6_000_000
"""Scores held at once: blocks of users are cut to it, 24 MB an array."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Where one contender put each user's targets, and what it would have shown."""

    users: IntArray
    """(U,), rows of users, ascending."""
    starts: IntArray
    """(U + 1,): the targets of users[n] are places starts[n] to starts[n + 1]."""
    targets: IntArray
    """(T,), rows of items, each once a user, ascending within the user."""
    ranks: IntArray
    """(T,), 0 is best; the largest int64 for a target that is not ranked, a miss at every K."""
    tops: IntArray
    """(U, K), rows of items, best first; -1 where fewer are ranked."""
    item_count: int
    """N."""

    def of_users(self, keep: BoolArray) -> Ranking:
        """Returns the users marked True, (U,)."""
        return self._cut(np.repeat(keep, np.diff(self.starts)), keep)

    def of_targets(self, keep: BoolArray) -> Ranking:
        """Returns the targets marked True, (T,), with their ranks among all items. Users without any are left out."""
        owners = np.repeat(np.arange(len(self.users)), np.diff(self.starts))
        return self._cut(keep, np.bincount(owners[keep], minlength=len(self.users)) > 0)

    def _cut(self, targets: BoolArray, users: BoolArray) -> Ranking:
        before = np.concatenate([[0], np.cumsum(targets)])  # (T + 1,)
        lengths = np.diff(before[self.starts])[users]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Ranking(self.users[users], starts, self.targets[targets], self.ranks[targets], self.tops[users], self.item_count)

    def values(self, metrics: Sequence[Metric]) -> NDArray[np.float64]:
        """Returns each metric of each user, (U, M); 0 for coverage, which is no mean over users."""
        spans = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        return np.array([user_values(self.ranks[start:end], metrics) for start, end in spans], np.float64).reshape(-1, len(metrics))

    def estimates(self, metrics: Sequence[Metric]) -> dict[str, Estimate]:
        """Returns the metrics by name. At least one user, and lists as long as the longest coverage asks for."""
        found = dict(zip((metric.name for metric in metrics), estimates(self.values(metrics)), strict=True))
        for metric in metrics:
            if metric.kind == "coverage":
                found[metric.name] = coverage(self.tops[:, : metric.k], self.item_count)
        return found


def rank_users(
    name: str,
    score: Baseline,
    users: IntArray,
    fitted: Interactions,
    asked: Interactions,
    *,
    list_length: int = LIST_LENGTH,
    progress: Progress,
) -> Ranking:
    """Returns where a contender ranks what `users`, ascending, are asked for in `asked`, among all items but their rows of `fitted`.

    A target among the user's fitted rows is a miss, one that `asked` repeats counts once, and a user with no target at all has zeros.

    Args:
        name: Of the contender, for the progress.
        score: Scores of all items by user row.
        users: Rows of users, ascending.
        fitted: What is not ranked.
        asked: The targets.
        list_length: Places of each list to keep, >= 1.
        progress: Told after each block of users.
    """
    ranks, tops = [], []
    wanted = [np.unique(asked.items[asked.starts[user] : asked.starts[user + 1]]) for user in users.tolist()]
    block = max(1, CELLS // max(fitted.item_count, 1))
    for at in range(0, len(users), block):
        some = users[at : at + block]
        scores = np.array(score(some), np.float32)
        ranks += target_ranks(scores, hidden_items(fitted, some), wanted[at : at + block])
        tops.append(top_items(scores, list_length))
        progress(f"ranking all items: {name}", min(at + block, len(users)) / len(users))
    starts = np.concatenate([[0], np.cumsum([len(items) for items in wanted])]).astype(np.int64)
    nothing = np.zeros(0, np.int64)
    return Ranking(
        users,
        starts,
        np.concatenate([nothing, *wanted]),
        np.concatenate([nothing, *ranks]),
        np.concatenate([np.zeros((0, list_length), np.int64), *tops]),
        fitted.item_count,
    )


def hidden_items(fitted: Interactions, users: IntArray) -> list[IntArray]:
    """Returns the items that are not ranked for each user, because the user has them."""
    return [fitted.items[fitted.starts[user] : fitted.starts[user + 1]] for user in users.tolist()]


def list_length_for(metrics: Sequence[Metric]) -> int:
    """Returns how many places of each list these metrics and the report need."""
    return max([LIST_LENGTH, *(metric.k for metric in metrics if metric.kind == "coverage")])


def judge(rankings: dict[str, Ranking], metrics: Sequence[Metric]) -> dict[str, dict[str, Estimate]]:
    """Returns contender -> metric -> estimate."""
    return {name: ranking.estimates(metrics) for name, ranking in rankings.items()}
