from __future__ import annotations

import numpy as np
import pytest

import training.ranking_cases
from server.domain.ids import ItemId, UserId
from server.domain.ranking import RANKER_FEATURES
from tests.unit.training.synthetic import events_of, two_camps
from training import ranking
from training.data import Interactions, Vocabulary
from training.learn import ENOUGH_CASES
from training.model import Model, fit
from training.outcomes import Shown
from training.ranking import Logged, logged_cases, ranking_cases
from training.ranking_cases import sampled_cases
from training.tuning import with_view_weights

_USERS = ENOUGH_CASES + 10
_STEPS = two_camps(users=_USERS, items=40, length=6)
_LAST = 5


@pytest.fixture(scope="module")
def world() -> tuple[Vocabulary, Interactions, Interactions, Model]:
    """Users who each walk round the items of their camp, one step an hour; the last step is held out."""
    events = events_of(_STEPS)
    vocabulary = Vocabulary.of([events])
    interactions = vocabulary.encode(events)
    last = interactions.last_of_each(least=3)
    before = interactions.select(~last)
    return vocabulary, before, interactions.select(last), with_view_weights(fit(before, vocabulary.item_ids))


def _shown(vocabulary: Vocabulary, hour: float) -> list[Shown]:
    """Returns a list for every user: the last step, the one before it, two others, and one that is not in the catalogue."""
    others = ("i38", "i39", "gone")
    return [
        Shown(user, 3600 * hour, tuple(map(ItemId, dict.fromkeys((*_STEPS[user][_LAST - 1 :], *others))))) for user in vocabulary.user_ids
    ]


def test_a_list_is_a_case_of_the_moment_it_was_shown(world: tuple[Vocabulary, Interactions, Interactions, Model]) -> None:
    """Candidates are what was shown and the user did not have, the outcome is what was held out, the history ends before the list."""
    vocabulary, before, held_out, model = world
    cases = logged_cases(model, before, held_out, held_out.weights, Logged(_shown(vocabulary, 2.5), vocabulary))
    assert len(cases) == _USERS
    assert set(cases.valid.sum(axis=1).tolist()) <= {1, 2, 3}
    assert (cases.gains.sum(axis=1) == 1).all()
    assert (cases.features[:, 0, RANKER_FEATURES.index("history_length")] == np.float32(np.log1p(3))).all()


def test_a_list_after_the_outcome_or_for_a_worthless_one_is_no_case(world: tuple[Vocabulary, Interactions, Interactions, Model]) -> None:
    """It did not bring it about, or brought nothing."""
    vocabulary, before, held_out, model = world
    late, early = Logged(_shown(vocabulary, _LAST + 0.5), vocabulary), Logged(_shown(vocabulary, 2.5), vocabulary)
    assert not len(logged_cases(model, before, held_out, held_out.weights, late))
    assert not len(logged_cases(model, before, held_out, np.zeros_like(held_out.weights), early))


def test_shown_lists_teach_where_there_are_enough_and_held_out_items_elsewhere(
    world: tuple[Vocabulary, Interactions, Interactions, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of cases tells which."""
    vocabulary, before, held_out, draft = world
    monkeypatch.setattr(ranking, "_CASES", 150)
    for shown, cases in ((_shown(vocabulary, 2.5), _USERS), (_shown(vocabulary, 2.5)[:50], 150), ([], 150)):
        found = ranking_cases(
            draft,
            before,
            held_out,
            held_out.weights,
            logged=Logged(shown, vocabulary),
            progress=lambda _step, _share: None,
        )
        assert len(found) == cases


def test_the_kept_candidates_stand_for_all(
    world: tuple[Vocabulary, Interactions, Interactions, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a case leaves out is counted, and the ranker learns nothing from those that only count."""
    _, before, held_out, model = world
    histories = [before.history(user) for user in held_out.users[:20].tolist()]
    targets = held_out.items[:20].tolist()
    whole = sampled_cases(model, histories, targets, [1.0] * 20)
    for name, value in (("WIDTH", 4), ("EXTREME", 1), ("_REST", 3)):
        monkeypatch.setattr(training.ranking_cases, name, value)
    cases = sampled_cases(model, histories, targets, [1.0] * 20)
    np.testing.assert_allclose(cases.counts.sum(axis=1), whole.valid.sum(axis=1), rtol=1e-6)
    assert (cases.near.sum(axis=1) == 4).all()
    assert ((cases.counts > 1) & ~cases.valid).any()
    assert (cases.counts[cases.gains > 0] == 1).all()
    assert (cases.valid | (cases.counts > 0)).sum() < whole.valid.sum()


def test_held_out_items_worth_nothing_or_known_before_are_not_asked_for() -> None:
    """What a user had already, what has no worth, and what came first teach nothing."""
    before = events_of({"u": ["a", "b"], "v": ["b", "c"]})
    after = events_of({"u": ["a", "c"], "v": ["a"], "w": ["a"]}, start_s=1e6)
    vocabulary = Vocabulary.of([before, after])
    held_out = vocabulary.encode(after)
    places = ranking._draw(vocabulary.encode(before), held_out, np.where(held_out.users == 1, 0, 1).astype(np.float32))
    assert [(held_out.users[place], held_out.items[place]) for place in places] == [(0, 2)]
    assert vocabulary.user_ids[0] == UserId("u")
