from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from server.domain import Event, EventId, Item, ItemId, TenantId, UserId
from server.inference import BuiltEncoder, open_inference
from server.retrieval.vectors import UNWANTED
from server.service.applied import decode_applied, encode_applied
from server.service.bundle_folder import BundleFolder
from server.service.catalogue import Catalogue
from server.service.catalogues import Catalogues
from server.service.snapshots import Snapshots
from server.settings import Settings
from server.store import Database
from server.store.events import apply_events
from server.store.items import upsert_items
from server.store.sequences import read_applied
from tests.event_factories import event
from tests.eventually import eventually

_ITEMS = [ItemId(f"i{number}") for number in range(6)]


@pytest.fixture
async def makers(database: Database, encoder: BuiltEncoder, tmp_path: Path) -> AsyncIterator[list[Catalogues]]:
    """Two replicas' catalogues."""
    repository = Settings().model_repository
    async with open_inference(triton_url="", encoder=encoder, model_repository=repository, threads=1, runtime="local") as inference:
        made = [
            Catalogues(
                database,
                inference,
                BundleFolder(database, tmp_path / str(number)),
                Snapshots(tmp_path / str(number)),
            )
            for number in range(2)
        ]
        yield made
        for one in made:
            await one.close()


async def _apply(database: Database, tenant_id: TenantId, events: list[Event]) -> list[list[str]]:
    """Applies events as a worker does; returns the publications."""
    async with database.tenant(tenant_id) as connection:
        applied = await apply_events(connection, tenant_id, events)
        return list(encode_applied(await read_applied(connection, tenant_id, applied, unwanted=UNWANTED)))


async def _counts(catalogues: Catalogues, tenant_id: TenantId) -> np.ndarray:
    """Returns transitions and cosine of all pairs of items, and what trends."""
    catalogue = await catalogues.get(tenant_id)
    source = catalogue.sparse
    place = [source.item_ids.index(item) if item in source.item_ids else -1 for item in _ITEMS]
    ones = np.ones(1, np.float32)
    parts = [
        np.append(source.scores(np.array([row]), ones, score), 0)[place] if row >= 0 else np.zeros(len(place))
        for row in place
        for score in ("transitions", "cosine")
    ]
    return np.concatenate([*parts, catalogue.trending.shares(_ITEMS)])


async def test_events_count_once_whether_they_are_read_or_told(database: Database, tenant_id: TenantId, makers: list[Catalogues]) -> None:
    """Workers apply events, a catalogue is counted anew again and again, messages come late: all counts end up as a fresh load's."""
    running, fresh = makers
    random = np.random.default_rng(1)
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, [Item(item_id=item, title=item) for item in _ITEMS])

    async def work(worker: int) -> None:
        for step in range(25):
            batch = [
                Event(
                    event_id=EventId(f"{worker}-{step}-{number}"),
                    user_id=UserId(f"u{random.integers(5)}"),
                    item_id=_ITEMS[random.integers(len(_ITEMS))],
                    event_type=("click", "view", "hide")[random.integers(3)],
                    occur_time=datetime.now(UTC) - timedelta(seconds=int(random.integers(10_000))),
                )
                for number in range(3)
            ]
            publications = await _apply(database, tenant_id, batch)
            await asyncio.sleep(float(random.random()) * 0.01)
            for messages in publications:
                running.observe(tenant_id, decode_applied(messages))

    async def recount() -> None:
        for _ in range(8):
            running.on_missed()
            await asyncio.sleep(0.02)

    await work(9)  # before the first load
    load = asyncio.create_task(running.get(tenant_id))
    await asyncio.gather(load, work(0), work(1), work(2), recount())

    async def agree() -> bool:
        return np.allclose(await _counts(running, tenant_id), expected, atol=1e-6)

    expected = await _counts(fresh, tenant_id)
    assert np.count_nonzero(expected) > len(_ITEMS) ** 2
    await eventually(agree, within_s=10)


async def test_what_was_not_told_is_counted_once_the_channel_is_back(
    database: Database, tenant_id: TenantId, makers: list[Catalogues]
) -> None:
    """Events whose messages were lost count after `on_missed`, and not again should a message still come."""
    running, _ = makers
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, [Item(item_id=item, title=item) for item in _ITEMS])
    before = (await running.get(tenant_id)).sparse
    events = [event(place, item_id=item) for place, item in enumerate(_ITEMS[:2])]
    publications = await _apply(database, tenant_id, events)
    assert not np.any(await _counts(running, tenant_id))
    running.on_missed()

    async def counted() -> bool:
        return (await running.get(tenant_id)).sparse is not before

    await eventually(counted)
    expected = await _counts(running, tenant_id)
    assert np.any(expected)
    for messages in publications:
        running.observe(tenant_id, decode_applied(messages))
    assert np.array_equal(await _counts(running, tenant_id), expected)
    assert len((await running.get(tenant_id)).sparse._new_together) == 2


async def test_however_much_is_told_during_a_load_counts(database: Database, tenant_id: TenantId, makers: list[Catalogues]) -> None:
    """What is heard while a catalogue is built is in it once it is in use, also where it is much."""
    running, _ = makers
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, [Item(item_id=item, title=item) for item in _ITEMS])
    await running.get(tenant_id)
    events = [event(number, item_id=_ITEMS[number % 2], user_id=UserId(f"u{number // 2}")) for number in range(400)]
    publications = await _apply(database, tenant_id, events)
    index = (await running.get(tenant_id)).index
    built = Catalogue.new(tenant_id, None, index, trending_origin=datetime.now(UTC))
    async with running._hearing(built):
        for messages in publications:
            running.observe(tenant_id, decode_applied(messages))
        assert not built.sparse.item_ids
    assert await running.get(tenant_id) is built
    assert built.sparse.scores(np.array([0]), np.ones(1, np.float32), "cosine").tolist() == [0.0, 1.0]
    assert float(built.sparse._users[0]) == 200
