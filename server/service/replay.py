"""Brings a new catalogue's counts up to what the database knows, as of one moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from server.retrieval.vectors import UNWANTED, action_weight
from server.service.catalogue import Catalogue
from server.store.database import Database
from server.store.events import BEGINNING, iter_interactions
from server.store.sequences import iter_changed, read_seen

TRENDING_WINDOW = timedelta(days=60)

REPLAY_LIMIT = 50_000
"""Events since the training that are counted at a load, the newest, each user's with the 200 before them: some seconds at most."""


async def replay(database: Database, catalogue: Catalogue) -> None:
    """Counts what trends, and for the item-to-item source the events since the bundle's training, or all without a bundle.

    Afterwards `catalogue.seen` says which transactions are in it. Events that came in after the training with a time before the last one
    trained on wait for the next training.

    Raises:
        UnavailableError: The database is down; the catalogue's counts are then incomplete.
    """
    tenant_id = catalogue.tenant_id
    async with database.tenant(tenant_id, isolation="repeatable_read") as connection:
        seen = await read_seen(connection)
        async for chunk in iter_interactions(connection, tenant_id, start_time=datetime.now(UTC) - TRENDING_WINDOW):
            for one in chunk:
                moment = datetime.fromtimestamp(one.occur_time_s, UTC)
                catalogue.trending.observe(one.item_id, moment, action_weight(one.event_type))
        after = trained_until(catalogue.bundle.manifest) if catalogue.bundle else BEGINNING
        async for sequences in iter_changed(connection, tenant_id, after=after, unwanted=UNWANTED, limit=REPLAY_LIMIT):
            await asyncio.to_thread(catalogue.count, sequences)  # nobody else knows the catalogue yet
    catalogue.seen = seen


def trained_until(manifest: Mapping[str, Any]) -> datetime:
    """Returns the time after which events were not trained on: the last one's, but none after the training: events may be dated ahead."""
    last_event_s = manifest["lineage"]["last_event_s"]
    if last_event_s is None:
        return BEGINNING
    trained = datetime.fromisoformat(manifest["create_time"]) + timedelta(seconds=1)  # it was cut to whole seconds
    return min(datetime.fromtimestamp(last_event_s, UTC), trained)
