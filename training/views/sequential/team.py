"""Trainers that take each step together; alone, a team of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from training.data import Interactions
from training.views.sequential.batches import Batch

if TYPE_CHECKING:
    from training.views.sequential.loop import Recipe
    from training.views.sequential.net import SequenceNet

Validate: TypeAlias = "Callable[[SequenceNet], float]"


class Team:
    """A trainer by itself. Teams of several say what differs.

    All members have the same weights, since they start from one seed and apply the same gradients.

    Args:
        rank: Of this member, in [0, `members`).
        members: At least 1.
    """

    def __init__(self, rank: int = 0, members: int = 1) -> None:
        self.rank, self.members = rank, members

    def own(self, interactions: Interactions) -> Interactions:
        """Returns what this member learns from: the interactions of every `members`-th user."""
        return interactions if self.members == 1 else interactions.select(interactions.users % self.members == self.rank)

    def recipe(self, recipe: Recipe) -> Recipe:
        """Returns the recipe of one member: its batches are a share of the team's."""
        if self.members == 1:
            return recipe
        tokens, least = (max(value // self.members, 1) for value in (recipe.tokens, recipe.least_tokens))
        return replace(recipe, tokens=tokens, least_tokens=least)

    def steps(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, int]]:
        """Yields batches with something to learn, and how many targets each has; 0 where a member only keeps the others company."""
        for batch in batches:
            targets = int((batch.targets >= 0).sum())
            if targets:
                yield batch, targets

    def agreed(self, loss: float, targets: int) -> float:
        """Returns the mean loss over all members' targets of a step."""
        del targets
        return loss

    def share_gradients(self, net: SequenceNet, targets: int) -> None:
        """Makes the gradients those of all members' targets of a step, after `agreed`."""

    def judged(self, validate: Validate | None) -> Validate | None:
        """Returns a validation whose answer all members get."""
        return validate


def company() -> Batch:
    """Returns the smallest batch, for a member that has no more of its own."""
    one = np.ones((1, 1), np.int64)
    return Batch(items=0 * one, actions=one, gaps=0 * one, targets=0 * one)
