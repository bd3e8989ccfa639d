"""Lists that now and then show what the order would not, with the exact probability of each item at its place."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explored:
    """A list after the draw."""

    places: tuple[int, ...]
    propensities: tuple[float, ...]
    """Of each item at its place, over all seeds."""
    drawn: int
    """Items that took another's place."""


def explored(shown: Sequence[int], pool: Sequence[int], slots: Sequence[int], *, epsilon: float, seed: int) -> Explored:
    """Returns the list in which each slot, by a coin of its own, keeps its item or shows one of the pool.

    One random order of the pool deals a different item to each slot, so no item is shown twice, and every item of the pool is as likely as
    any other at every slot. A slot keeps its item with probability 1 - epsilon, and shows a given one of the pool with epsilon / len(pool).
    Places outside the slots have probability 1. Where the pool is smaller than the slots, the last slots alone explore.

    Args:
        shown: The list without exploration.
        pool: Items not in `shown`, each once.
        slots: Indexes into `shown`, rising.
        epsilon: In [0, 1].
        seed: Equal seeds give equal lists, in any version of Python.

    Source: uniform exploration with logged propensities, as offline evaluation needs them: L. Li et al., Unbiased Offline Evaluation of
    Contextual-Bandit-Based News Article Recommendation Algorithms, WSDM 2011; A. Swaminathan, T. Joachims, Counterfactual Risk
    Minimization, ICML 2015.
    """
    exploring = list(slots)[max(0, len(slots) - len(pool)) :] if epsilon > 0 else []
    places, propensities = list(shown), [1.0] * len(shown)
    draw = random.Random(seed).random  # noqa: S311  # no secret; the one generator whose `random` keeps its sequence across versions
    coins = [draw() < epsilon for _ in exploring]
    keys = [draw() for _ in pool] if exploring else []
    dealt = sorted(range(len(keys)), key=lambda place: (keys[place], place))
    for slot, explores, place in zip(exploring, coins, dealt[: len(exploring)], strict=True):
        propensities[slot] = epsilon / len(pool) if explores else 1 - epsilon
        if explores:
            places[slot] = pool[place]
    return Explored(tuple(places), tuple(propensities), sum(coins))


def seed_of(*inputs: str) -> int:
    """Returns the seed of a decision made from these inputs, in [0, 2 ** 63): equal inputs, equal draws."""
    digest = hashlib.blake2b("\0".join(inputs).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
