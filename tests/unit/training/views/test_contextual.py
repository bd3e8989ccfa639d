"""What of a request's context counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from server.demo.generate import generate
from server.domain import Profile, TenantId, UserId
from server.retrieval.context import AXES, request_features, weighed
from server.retrieval.vectors import hash_features
from training.bundle import train
from training.data import History, Interactions, Vocabulary, raw_events
from training.metrics import parse_metrics, target_ranks, user_values
from training.model import Model, Scorer, fit
from training.views.contextual import ENOUGH_CASES, Contexts, learn_context

_SEEN = 300


class _World:
    """The demo's couples: 300 to learn from, 80 that nobody has seen act."""

    def __init__(self) -> None:
        demo = generate(_SEEN + 80, 0, datetime(2026, 6, 1, tzinfo=UTC))
        self.items = [item for item in demo.items if not item.content_type]
        ids = {item.item_id for item in self.items}
        rows = [(one.user_id, one.item_id, one.event_type, one.occur_time.timestamp()) for one in demo.events if one.item_id in ids]
        seen = {user.user_id for user in demo.users[:_SEEN]}
        self.profiles: dict[UserId, Profile] = {user.user_id: user for user in demo.users}
        self.events = raw_events(row for row in rows if row[0] in seen)
        self.vocabulary = Vocabulary.of([self.events], ids)
        interactions = self.vocabulary.encode(self.events)
        last = interactions.last_of_each(least=3)
        self.before, self.held_out = interactions.select(~last), interactions.select(last)
        place = {item_id: row for row, item_id in enumerate(self.vocabulary.item_ids)}
        self.chosen: dict[UserId, dict[int, float]] = {}
        for user, item, _, time_s in rows:
            if user not in seen:
                self.chosen.setdefault(UserId(user), {}).setdefault(place[item], time_s)

    def contexts(self) -> Contexts:
        """Returns what is known of the couples and the vendors."""
        return Contexts.of(self.vocabulary.item_ids, self.items, self.vocabulary.user_ids, self.profiles)

    def ndcg(self, model: Model, contexts: Contexts) -> float:
        """Returns the mean NDCG@10 of everything that couples nobody has seen act go on to choose."""
        rows, nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
        base = Scorer(model).scores([History(rows, nothing, rows, np.zeros(0, np.float64))])[0]
        found = []
        for user, chosen in self.chosen.items():
            features = request_features({}, self.profiles[user], now=datetime.fromtimestamp(min(chosen.values()), UTC))
            scores = base + model.weights.contextual * (contexts.items @ hash_features(weighed(features, model.context_axes)))
            ranks = target_ranks(scores[None].copy(), [np.zeros(0, np.int64)], [np.array(sorted(chosen), np.int64)])
            found.append(user_values(ranks[0], parse_metrics("ndcg@10"))[0])
        return float(np.mean(found))


@pytest.fixture(scope="module")
def world() -> _World:
    """The demo in small."""
    return _World()


def _fit(before: Interactions, world: _World) -> Model:
    return fit(before, world.vocabulary.item_ids)


def test_learned_axes_rank_better_for_users_nobody_has_seen(world: _World) -> None:
    """On the generated data what is learned of some couples ranks clearly better for others than axes that all count alike."""
    fixed, contexts = _fit(world.before, world), world.contexts()
    learned = learn_context(fixed, world.before, world.held_out, contexts, progress=_quiet, note=_unexpected)
    assert world.ndcg(learned, contexts) > world.ndcg(fixed, contexts) + 0.03
    assert learned.context_axes["place"] > learned.context_axes["season"]
    assert set(learned.context_axes) == set(AXES)
    assert min(learned.context_axes.values()) >= 0.1 - 1e-6, "an axis that told nothing yet may tell later"
    # What no request of the data names was not learned.
    assert {learned.context_axes[axis] for axis in ("brand", "device", "setting", "price")} == {1.0}


def test_a_trained_bundle_has_what_was_learned(world: _World, tmp_path: Path) -> None:
    """Training that is given what users have stated writes the axes' weights into the bundle."""
    trained = train(
        world.events,
        {},
        items=world.items,
        tenant_id=TenantId("t"),
        text_model="",
        directory=tmp_path,
        profiles=world.profiles,
        sequential=False,
    )
    axes = trained.manifest["context_axes"]
    assert axes["place"] > axes["season"]


def test_without_known_users_everything_stays(world: _World) -> None:
    """Where few or no facts are known, weights stay as they are, and a sentence says why."""
    fixed = _fit(world.before, world)
    notes: list[str] = []
    few = dict(list(world.profiles.items())[: ENOUGH_CASES // 2])
    contexts = replace(world.contexts(), profiles={})
    assert learn_context(fixed, world.before, world.held_out, contexts, progress=_quiet, note=notes.append) is fixed
    contexts = Contexts.of(world.vocabulary.item_ids, world.items, world.vocabulary.user_ids, few)
    assert learn_context(fixed, world.before, world.held_out, contexts, progress=_quiet, note=notes.append) is fixed
    assert [sentence.split(":")[0] for sentence in notes] == [
        f"facts are known of {count} users, fewer than {ENOUGH_CASES}" for count in (0, ENOUGH_CASES // 2)
    ]


def _quiet(_step: str, _share: float) -> None:
    """Tells nobody."""


def _unexpected(sentence: str) -> None:
    """Refuses to be told anything."""
    raise AssertionError(sentence)
