from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from redis.asyncio import Redis

from server.domain import Decision, DecisionId, ItemId, Rung, TenantId, UserId
from server.domain.decisions import Ranking
from server.store import Database
from server.store.decisions import get_decision
from server.stream import DecisionLog
from server.worker import decision_worker
from tests.event_factories import NOON
from tests.eventually import eventually

DECISION = Decision(
    decision_id=DecisionId("d0"),
    user_id=UserId("ann"),
    method="RecommendItems",
    decide_time=NOON,
    ranking=Ranking.of(("a", "b"), (1.0, 0.5), (1.0, 0.25)),
    candidates=(ItemId("a"), ItemId("b"), ItemId("c")),
    rung=Rung.NO_RANKER,
    arms={"layout": "wide"},
    context={"page": "home"},
)


async def test_recorded_decisions_can_be_read(redis_client: Redis, database: Database, tenant_id: TenantId) -> None:
    """A recorded decision is in the table a moment later, as it was; recorded twice, it is there once."""

    async def tenants() -> Sequence[TenantId]:
        return [tenant_id]

    made = [replace(DECISION, decision_id=DecisionId(f"d{number}")) for number in range(70)]
    async with DecisionLog(redis_client).running() as log, decision_worker(redis_client, database, tenants, name="w").running():
        for decision in [*made, made[0]]:
            log.record(tenant_id, decision)

        async def written() -> bool:
            async with database.tenant(tenant_id) as connection:
                return bool(await connection.fetchval("SELECT count(*) = 70 FROM decisions"))

        await eventually(written)
    async with database.tenant(tenant_id) as connection:
        assert made[7] == await get_decision(connection, made[7].decision_id)
