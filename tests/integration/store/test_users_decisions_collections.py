import struct
from datetime import UTC, datetime

import pytest

from server.domain import BundleId, Decision, DecisionId, ItemId, Profile, Rung, TenantId, UserId
from server.domain.decisions import Ranking
from server.errors import AlreadyExistsError, InvalidFieldError, NotFoundError
from server.store import Database
from server.store.collections import (
    StoredVector,
    changed_vectors,
    create_collection,
    delete_collection,
    delete_vectors,
    get_collection,
    list_collections,
    upsert_vectors,
)
from server.store.decisions import ShownList, get_decision, insert_decisions, iter_shown
from server.store.profiles import get_profile, stated_profiles
from server.store.users import User, upsert_users


async def test_users_are_replaced_in_bulk_and_equal_ones_left_alone(database: Database, tenant_id: TenantId) -> None:
    """The last row of a user counts; a repeated import changes nothing."""
    couple = User(
        user_id=UserId("u1"), traits={"guests": 80}, locale="pt-PT", time_zone="Europe/Lisbon", event_date=datetime(2027, 6, 5, tzinfo=UTC)
    )
    async with database.tenant(tenant_id) as connection:
        counts = await upsert_users(connection, [User(user_id=UserId("u1")), User(user_id=UserId("u2")), couple])
        assert (counts.created, counts.updated, counts.unchanged) == (2, 0, 0)
        profile = await get_profile(connection, tenant_id, UserId("u1"))
        assert profile is not None
        assert couple == User(**{name: getattr(profile, name) for name in User.__slots__})
    async with database.tenant(tenant_id) as connection:
        counts = await upsert_users(connection, [couple, User(user_id=UserId("u2"), locale="de")])
        assert (counts.created, counts.updated, counts.unchanged) == (0, 1, 1)
        assert await connection.fetchval("SELECT count(*) FROM users") == 2


async def test_recommended_lists_are_read_for_training_oldest_first(database: Database, tenant_id: TenantId) -> None:
    """Only lists that someone was shown to choose from: of RecommendItems, with two items or more; and only the tenant's own."""

    def decision(name: str, method: str, minute: int, items: tuple[str, ...]) -> Decision:
        return Decision(
            decision_id=DecisionId(name),
            user_id=UserId("u1"),
            method=method,
            decide_time=datetime(2026, 1, 2, 3, minute, tzinfo=UTC),
            ranking=Ranking.of(items, (0.0,) * len(items), (1.0,) * len(items)),
            context={"city": "Porto"},
        )

    written = [
        decision("d1", "RecommendItems", 9, ("a", "b")),
        decision("d2", "RecommendItems", 5, ("c", "b", "a")),
        decision("d3", "RecommendItems", 6, ("c",)),
        decision("d4", "RankItems", 7, ("a", "b")),
    ]
    async with database.tenant(tenant_id) as connection:
        await insert_decisions(connection, written)
        found = [one async for one in iter_shown(connection, tenant_id, chunk=1)]
    start = datetime(2026, 1, 2, 3, tzinfo=UTC).timestamp()
    assert found == [
        ShownList(UserId("u1"), (ItemId("c"), ItemId("b"), ItemId("a")), {"city": "Porto"}, start + 300),
        ShownList(UserId("u1"), (ItemId("a"), ItemId("b")), {"city": "Porto"}, start + 540),
    ]


async def test_a_decision_reads_back_equal_and_is_written_once(database: Database, tenant_id: TenantId) -> None:
    """Sending a batch of decisions again adds nothing."""
    decision = Decision(
        decision_id=DecisionId("d1"),
        user_id=UserId("u1"),
        method="RecommendItems",
        decide_time=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        ranking=Ranking.of(("a", "b"), (0.1 + 0.2, -1e-300), (1.0, 0.25), (0.5, 0.1 + 0.2)),
        candidates=(ItemId("a"), ItemId("b"), ItemId("c")),
        rung=Rung.NO_RANKER,
        bundle_id=BundleId("b-1"),
        runtime="triton",
        arms={"e": "x"},
        context={"page": "home"},
    )
    async with database.tenant(tenant_id) as connection:
        assert await insert_decisions(connection, [decision]) == 1
        assert await insert_decisions(connection, [decision]) == 0
        assert await get_decision(connection, DecisionId("d1")) == decision
        with pytest.raises(NotFoundError):
            await get_decision(connection, DecisionId("d2"))


async def test_vectors_of_a_collection_change_in_order(database: Database, tenant_id: TenantId) -> None:
    """Upserts and deletions of vectors appear in the change feed; wrong lengths and unknown collections are named."""
    one, two = struct.pack("<2f", 1, 2), struct.pack("<2f", 3, 4)
    async with database.tenant(tenant_id) as connection:
        await create_collection(connection, "docs", 2)
        with pytest.raises(AlreadyExistsError):
            await create_collection(connection, "docs", 2)
        with pytest.raises(InvalidFieldError, match="2 float32"):
            await upsert_vectors(connection, "docs", [StoredVector("a", one + two)])
        with pytest.raises(NotFoundError, match="collections/nope"):
            await upsert_vectors(connection, "nope", [])
        assert (
            await upsert_vectors(connection, "docs", [StoredVector("a", two), StoredVector("b", two, {"k": 1}), StoredVector("a", one)])
            == 2
        )
        assert await upsert_vectors(connection, "docs", [StoredVector("a", one)]) == 0
        seen = await changed_vectors(connection, "docs", 0, 10)
        assert [(vector.vector_id, vector.vector, vector.attributes) for vector in seen] == [("a", one, {}), ("b", two, {"k": 1})]
        assert await delete_vectors(connection, "docs", ["b", "c"]) == 1
        (change,) = await changed_vectors(connection, "docs", seen[-1].revision, 10)
        assert (change.vector_id, change.vector, change.deleted) == ("b", b"", True)
        assert [collection.collection_id for collection in await list_collections(connection)] == ["docs"]
        await delete_collection(connection, "docs")
        with pytest.raises(NotFoundError):
            await get_collection(connection, "docs")
        with pytest.raises(NotFoundError):
            await delete_collection(connection, "docs")


async def test_stated_facts_are_read_for_training(database: Database, tenant_id: TenantId) -> None:
    """Only users who stated something, with what they stated, at most as many as asked for."""
    async with database.tenant(tenant_id) as connection:
        date = datetime(2027, 6, 5, tzinfo=UTC)
        await upsert_users(connection, [User(user_id=UserId("a"), traits={"city": "Porto"}, event_date=date), User(user_id=UserId("b"))])
        await upsert_users(connection, [User(user_id=UserId("c"), locale="pt")])
        assert await stated_profiles(connection, limit=10) == {
            UserId("a"): Profile(user_id=UserId("a"), traits={"city": "Porto"}, event_date=date),
            UserId("c"): Profile(user_id=UserId("c"), locale="pt"),
        }
        assert len(await stated_profiles(connection, limit=1)) == 1
