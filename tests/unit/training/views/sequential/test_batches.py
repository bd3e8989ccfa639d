from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from server.domain.profiles import HISTORY_LIMIT
from tests.unit.training.synthetic import arrays_of
from training.data import Interactions
from training.views.sequential.batches import NO_TARGET, batches, draw_candidates, make_windows

_HISTORIES = st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=8)


def _arrays(histories: list[list[int]]) -> Interactions:
    return arrays_of({f"u{user:02}": [f"i{item}" for item in items] for user, items in enumerate(histories)})[1]


@given(_HISTORIES, st.integers(1, 64), st.integers(0, 5))
def test_every_first_touch_with_a_history_is_a_target_once(histories: list[list[int]], tokens: int, seed: int) -> None:
    """Over an epoch the pairs of history and target are those of the data, whatever the size of a batch and the order."""
    interactions = _arrays(histories)
    windows = make_windows(interactions, np.ones_like(interactions.kinds))
    found = []
    for batch in batches(windows, tokens=tokens, generator=np.random.default_rng(seed)):
        for items, targets in zip(batch.items.tolist(), batch.targets.tolist(), strict=True):
            found += [(tuple(items[: step + 1]), target) for step, target in enumerate(targets) if target != NO_TARGET]
    names = sorted({item for items in histories for item in items})
    rows = {item: row for row, item in enumerate(names)}
    wanted = []
    for items in histories:
        told = [rows[item] for item in items]
        wanted += [(tuple(told[:step]), told[step]) for step in range(1, len(told)) if told[step] not in told[:step]]
    assert sorted(found) == sorted(wanted)


@given(_HISTORIES, st.integers(1, 64))
def test_a_batch_holds_at_most_its_tokens(histories: list[list[int]], tokens: int) -> None:
    """Padding included; only a single window may be longer."""
    interactions = _arrays(histories)
    windows = make_windows(interactions, np.ones_like(interactions.kinds))
    for batch in batches(windows, tokens=tokens, generator=np.random.default_rng(0)):
        assert batch.items.size <= tokens or len(batch.items) == 1


def test_a_long_history_is_cut_into_runs_that_share_one_event() -> None:
    """The last event of a run is only a target there and the first input of the next, so no target is lost or doubled."""
    interactions = arrays_of({"a": [f"i{place:04}" for place in range(2 * HISTORY_LIMIT + 50)]})[1]
    windows = make_windows(interactions, np.ones_like(interactions.kinds))
    assert windows.lengths.max() == HISTORY_LIMIT
    targets = np.concatenate([np.arange(first + 1, last) for first, last in windows.bounds.tolist()])
    assert sorted(targets.tolist()) == list(range(1, 2 * HISTORY_LIMIT + 50))


def test_few_items_are_all_candidates() -> None:
    """Then the softmax is the full one: nothing is corrected."""
    found = draw_candidates(np.array([3]), np.array([1, 0, 2, 5]), sample=2, generator=np.random.default_rng(0))
    assert found.items.tolist() == [0, 1, 2, 3]
    assert not found.log_odds.any()


def test_the_odds_of_a_candidate_are_how_often_it_is_drawn() -> None:
    """Over many batches an item is among the candidates as often as `log_odds` says: by the sample or as another's target."""
    counts = np.array([400, 50, 0, 0, 0, 0, 0, 0, 0, 50])
    shares = counts / counts.sum()
    generator = np.random.default_rng(0)
    drawn, told = np.zeros(10), np.full(10, -np.inf)
    rounds = 4000
    for _ in range(rounds):
        found = draw_candidates(np.unique(generator.choice(10, 2, p=shares)), counts, sample=3, generator=generator)
        drawn[found.items] += 1
    for targets in ([0, 1], [2, 3], [4, 5], [6, 7], [8, 9]):  # two targets a batch, so that the formula counts two
        found = draw_candidates(np.array(targets), counts, sample=3, generator=generator)
        told[found.items] = found.log_odds
    for often, log_odds in zip(drawn / rounds, told, strict=True):
        assert math.isclose(often, math.exp(log_odds), abs_tol=0.03)
