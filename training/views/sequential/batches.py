"""Interactions as padded batches of about one cost, and the negatives that a batch shares.

Shapes: W windows, B windows of a batch, T events of its longest, N items, C candidates of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.profiles import HISTORY_LIMIT
from server.inference.sequence import gap_buckets
from training.data import Interactions

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float32]

NO_TARGET = -1


@dataclass(frozen=True, slots=True)
class Windows:
    """Every user's events, cut into runs of at most `HISTORY_LIMIT` + 1, each at least 2 long."""

    items: IntArray
    """(E,), rows of items, users one after another."""
    actions: IntArray
    """(E,), as the network knows them."""
    gaps: IntArray
    """(E,), buckets of the time since the user's event before."""
    learnable: NDArray[np.bool_]
    """(E,): whether the event is a target: it follows another of its user, who had not touched the item before. What was seen is not
    recommended again."""
    bounds: IntArray
    """(W, 2): first and past-the-last place of each window."""
    item_count: int

    @property
    def lengths(self) -> IntArray:
        """Inputs of each window, (W,): all its events but the last."""
        return self.bounds[:, 1] - self.bounds[:, 0] - 1

    @property
    def target_counts(self) -> IntArray:
        """How often each item is a target, (N,)."""
        return np.bincount(self.items[self.learnable], minlength=self.item_count)


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows side by side, padded at the end."""

    items: IntArray
    """(B, T), rows of items; 0 where padded."""
    actions: IntArray
    """(B, T)."""
    gaps: IntArray
    """(B, T)."""
    targets: IntArray
    """(B, T): the item that came next, `NO_TARGET` where there is none to learn."""


def make_windows(interactions: Interactions, actions: IntArray) -> Windows:
    """Returns the windows of these interactions.

    Args:
        interactions: Only such as count: weights > 0.
        actions: (E,), the network's number of each interaction's event type.
    """
    starts, items = interactions.starts, interactions.items
    bounds = []
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        # A run's first event is the last target of the run before it.
        bounds += [(max(start, last - HISTORY_LIMIT), last + 1) for last in range(end - 1, start, -HISTORY_LIMIT)]
    return Windows(
        items=items,
        actions=actions,
        gaps=gap_buckets(np.diff(interactions.times, prepend=interactions.times[:1])),
        learnable=_learnable(interactions),
        bounds=np.array(bounds, np.int64).reshape(-1, 2),
        item_count=interactions.item_count,
    )


def _learnable(interactions: Interactions) -> NDArray[np.bool_]:
    pairs = interactions.pairs()
    _, places = np.unique(pairs, return_index=True)  # the first of equal ones, in order of time
    learnable = np.zeros(len(pairs), np.bool_)
    learnable[places] = True
    learnable[interactions.starts[:-1][np.diff(interactions.starts) > 0]] = False
    return learnable


def batches(windows: Windows, *, tokens: int, generator: np.random.Generator) -> Iterator[Batch]:
    """Yields every window once, windows of like length together, in random order.

    Args:
        windows: What to cut up.
        tokens: Most B * T; a longer window comes alone.
        generator: Decides the order.
    """
    lengths = windows.lengths
    order = np.argsort(lengths + 2 * generator.random(len(lengths)), kind="stable")
    groups: list[IntArray] = []
    start, longest = 0, 0
    for place, length in enumerate(lengths[order].tolist()):
        longest = max(longest, length)
        if place > start and longest * (place - start + 1) > tokens:
            groups.append(order[start:place])
            start, longest = place, length
    if len(order):
        groups.append(order[start:])
    for number in generator.permutation(len(groups)).tolist():
        yield _batch(windows, groups[number])


def _batch(windows: Windows, chosen: IntArray) -> Batch:
    lengths = windows.lengths[chosen]
    steps = np.arange(int(lengths.max()))[None, :]  # (1, T)
    inside = steps < lengths[:, None]  # (B, T)
    places = np.where(inside, windows.bounds[chosen, :1] + steps, 0)
    following = np.where(inside, places + 1, 0)
    learn = inside & windows.learnable[following]
    return Batch(
        items=np.where(inside, windows.items[places], 0),
        actions=np.where(inside, windows.actions[places], 0),
        gaps=np.where(inside & (steps > 0), windows.gaps[places], 0),  # as on the server, a run begins without one
        targets=np.where(learn, windows.items[following], NO_TARGET),
    )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items that a batch's targets are told apart from."""

    items: IntArray
    """(C,), ascending: the batch's targets and the sample."""
    log_odds: FloatArray
    """(C,): log of the chance that the item is among them. Taken off the logits of the others, it makes the sampled softmax an estimate
    of the full one."""


def draw_candidates(targets: IntArray, counts: IntArray, *, sample: int, generator: np.random.Generator) -> Candidates:
    """Returns all items if they are few, else the targets and a uniform sample.

    Args:
        targets: (n,), rows of items.
        counts: (N,): how often each item is a target, of all.
        sample: Draws, with replacement.
        generator: Draws.

    Source: Y. Bengio, J.-S. Senecal, Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language Model,
    IEEE TNN 19 (2008); corrected by inclusion instead of draw, since the sample is a set.
    """
    count = len(counts)
    if count <= 2 * sample:
        return Candidates(np.arange(count), np.zeros(count, np.float32))
    items = np.union1d(targets, generator.integers(0, count, sample))
    share = counts[items] / max(int(counts.sum()), 1)
    missing = sample * np.log1p(-1 / count) + len(targets) * np.log1p(-np.minimum(share, 1 - 1e-9))
    return Candidates(items, np.log(-np.expm1(missing)).astype(np.float32))
