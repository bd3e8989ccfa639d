"""The live server gives held-out users the list that the offline evaluation ranks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from aisle.v1 import recommendation_service_pb2 as pb
from server.domain import Event, EventId, Item, ItemId, TenantId
from server.store import Database
from server.store.bundles import promote_bundle, register_bundle
from server.store.events import apply_events
from server.store.items import upsert_items
from tests.fixtures_server import Door, new_key
from tests.unit.training.synthetic import no_report
from training.bundle import write_bundle
from training.data import RawEvents, Vocabulary, raw_events
from training.learn import Learning
from training.model import Model
from training.pipeline import Task, train_model
from training.ranking_cases import Pool
from training.rerank import all_scores

_START = datetime(2024, 3, 1, tzinfo=UTC)
_ITEMS = 40
_KINDS = ("click", "save")
_ASKED = 12


def _events() -> tuple[list[Event], RawEvents]:
    """Users who walk round the items in steps of two, with detours; every fourth event is a save."""
    generator = np.random.default_rng(4)
    events = []
    for user in range(120):
        place = int(generator.integers(_ITEMS))
        for step in range(int(generator.integers(4, 9))):
            place = (place + 2 if generator.random() < 0.8 else int(generator.integers(_ITEMS))) % _ITEMS
            moment = _START + timedelta(hours=step, minutes=int(generator.integers(50)))
            kind = _KINDS[step % 4 == 3]
            events.append(
                Event(
                    event_id=EventId(f"{user}-{step}"),
                    user_id=f"u{user:03}",
                    item_id=ItemId(f"i{place:02}"),
                    event_type=kind,
                    occur_time=moment,
                )
            )
    return events, raw_events((one.user_id, one.item_id or "", one.event_type, one.occur_time.timestamp()) for one in events)


def _trained(items: list[Item], events: RawEvents) -> tuple[Model, Vocabulary, Learning]:
    """Returns the model of all but each user's last event, as `aisle evaluate` makes it."""
    vocabulary = Vocabulary.of([events], [item.item_id for item in items])
    interactions = vocabulary.encode(events)
    last = interactions.last_of_each(least=3)
    before, held_out = interactions.select(~last), interactions.select(last)
    task = Task(item_ids=vocabulary.item_ids, event_types=vocabulary.event_types, items=items)
    _, model, learning = train_model(before, held_out, interactions, task, worth=held_out.weights)
    return model, vocabulary, learning


@pytest.mark.timeout(600)
async def test_the_live_list_is_the_evaluated_list(door: Door, database: Database, tenant_id: TenantId, tmp_path: Path) -> None:
    """For each of a dozen users, the items of RecommendItems are those that the evaluation ranks first, in its order, with its numbers.

    The model has all views that need no text, the transformer among them, and answers through the runtimes that serve.
    """
    items = [Item(item_id=ItemId(f"i{place:02}"), title=f"i{place:02}", price=10.0 + place) for place in range(_ITEMS)]
    events, raw = _events()
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, items)
        await apply_events(connection, tenant_id, events)
    model, vocabulary, learning = await asyncio.to_thread(_trained, items, raw)
    assert model.sequential is not None
    assert model.weights.sequential > 0
    assert model.ranker is not None
    pool = Pool(model)
    interactions = vocabulary.encode(raw)
    report = no_report(model, interactions)
    bundle_id, path, manifest = write_bundle(
        model, interactions, {}, report, tenant_id=tenant_id, text_model="", directory=tmp_path, ranking=learning.to_json()
    )
    async with database.tenant(tenant_id) as connection:
        await register_bundle(connection, bundle_id, path, manifest, state="TRAINED")
        await promote_bundle(connection, bundle_id)
    key = await new_key(database, tenant_id)
    for user in range(0, len(vocabulary.user_ids), len(vocabulary.user_ids) // _ASKED):
        history = interactions.history(user)
        offline = all_scores(model, [history])[0]
        offline[history.rows] = -np.inf
        best = np.lexsort((np.arange(_ITEMS), -offline))[:10]
        request = pb.RecommendItemsRequest(user=f"users/{vocabulary.user_ids[user]}", max_results=10)
        reply = await door.call("RecommendationService/RecommendItems", request, pb.RecommendItemsResponse, key=key)
        assert reply.rung == pb.Ladder.FULL
        assert reply.bundle == f"bundles/{bundle_id}"
        assert [one.item for one in reply.items] == [f"items/{vocabulary.item_ids[row]}" for row in best.tolist()]
        np.testing.assert_allclose([one.score for one in reply.items], offline[best], atol=2e-3)
        rows = np.setdiff1d(np.arange(_ITEMS), history.rows)  # so few that all are candidates
        chances = np.zeros(_ITEMS)
        chances[rows] = model.ranker.probabilities(pool.features(pool.columns([history]), 0, history, rows))
        np.testing.assert_allclose([one.probability for one in reply.items], chances[best], atol=1e-3)
