"""What stays of events beside the profile: the user's vector."""

from __future__ import annotations

import uuid

import numpy as np

from aisle.v1 import embedding_service_pb2 as embedding
from aisle.v1 import event_service_pb2 as events
from server.demo.generate import Demo
from server.store import Database
from tests.eventually import eventually
from tests.fixtures_server import SHOP, Door


async def test_applied_events_leave_the_users_vector_in_the_profile(door: Door, database: Database, shop: Demo) -> None:
    """Some seconds after events were ingested the profile's row holds the vector that EmbedUser returns, and the bundle that made it."""
    user = f"vectors-{uuid.uuid4().hex}"
    items = [item.item_id for item in shop.items if not item.content_type][:3]
    sent = [events.Event(user=f"users/{user}", item=f"items/{item}", event_type="save") for item in items]
    await door.call("EventService/IngestEvents", events.IngestEventsRequest(events=sent), events.IngestEventsResponse)

    async def kept() -> tuple[np.ndarray, str] | None:
        async with database.tenant(SHOP) as connection:
            row = await connection.fetchrow(
                "SELECT user_embedding, model_version FROM user_personalization_profiles WHERE user_id = $1 AND user_embedding IS NOT NULL",
                user,
            )
        return (row["user_embedding"], row["model_version"]) if row else None

    await eventually(kept)
    vector, bundle = await kept() or (None, "")
    reply = await door.call("EmbeddingService/EmbedUser", embedding.EmbedUserRequest(user=f"users/{user}"), embedding.EmbedUserResponse)
    assert reply.history_length == len(items)
    np.testing.assert_array_equal(np.frombuffer(reply.vector, "<f4"), vector)
    assert reply.bundle == f"bundles/{bundle}"
