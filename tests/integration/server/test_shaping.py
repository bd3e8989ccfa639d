"""Lists of a server that shapes them."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from aisle.v1 import event_service_pb2 as events
from aisle.v1 import recommendation_service_pb2 as pb
from server.app import Endpoints, serving
from server.demo.generate import Demo
from server.domain import Item, ItemId, TenantId
from server.embedded import Parts
from server.inference import BuiltEncoder
from server.service.recommendation import SEED
from server.store import Database
from server.store.items import upsert_items
from server.store.shaping import change_shaping
from server.store.tenants import ensure_tenant
from tests.eventually import eventually
from tests.fixtures_server import SHOP, Door, new_key, server_settings


@pytest.fixture(scope="module")
async def shaping(parts_with_triton: Parts, database: Database, shop: Demo, encoder: BuiltEncoder, short_dir: Path) -> AsyncIterator[Door]:
    """A server with every step of shaping switched on."""
    endpoints = Endpoints(parts_with_triton.database_url, parts_with_triton.redis_url, "")
    settings = server_settings(
        short_dir / "shaping",
        runtime="local",
        diversity=0.2,
        vendor_cap=2,
        vendor_attribute="attributes.city",
        exploration=0.5,
        repeatable_event_types="play",
    )
    key = await new_key(database, SHOP)
    async with (
        serving(settings, endpoints, encoder) as doors,
        grpc.aio.insecure_channel(doors.grpc_address) as channel,
        httpx.AsyncClient(base_url=f"http://{doors.http_address}", timeout=30) as http,
    ):
        yield Door(doors, channel, http, key)


async def recommend(door: Door, user: str, **fields: object) -> pb.RecommendItemsResponse:
    """Returns the list of a user."""
    request = pb.RecommendItemsRequest(user=user, **fields)  # type: ignore[arg-type]  # fields of the message, named by the test
    return await door.call("RecommendationService/RecommendItems", request, pb.RecommendItemsResponse)


async def record(door: Door, name: str, *, key: str | None = None) -> pb.Decision:
    """Returns the record of a decision, once it is written."""

    async def written() -> bool:
        return (await door.rest("GET", f"/v1/{name}", key=key)).status_code == 200

    await eventually(written)
    return await door.call("RecommendationService/GetDecision", pb.GetDecisionRequest(name=name), pb.Decision, key=key)


async def test_a_cached_list_logs_the_propensities_it_was_drawn_with(shaping: Door) -> None:
    """The computed and the cached reply show one list, and their records agree in propensities and seed, of which some are below 1."""
    user = f"users/{uuid.uuid4().hex}"
    first, second = await recommend(shaping, user, max_results=10), await recommend(shaping, user, max_results=10)
    assert (first.cached, second.cached) == (False, True)
    one, two = await record(shaping, first.decision), await record(shaping, second.decision)
    assert list(one.items) == list(two.items) == [ranked.item for ranked in first.items]
    assert list(one.propensities) == list(two.propensities)
    assert list(one.propensities[:5]) == [1.0] * 5
    assert all(0 < propensity <= 0.5 for propensity in one.propensities[5:])
    assert one.context[SEED] == two.context[SEED]


async def test_reasons_follow_the_list(shaping: Door) -> None:
    """An explained list shows the same items in the same places, with the reasons of those that were chosen for one."""
    user = f"users/{uuid.uuid4().hex}"
    plain, explained = await recommend(shaping, user, max_results=10), await recommend(shaping, user, max_results=10, explain=True)
    assert [one.item for one in plain.items] == [one.item for one in explained.items]
    # What exploration deals may be an item that nobody touched: a stranger's list has no reason for it.
    assert sum(1 for one in explained.items if one.reasons) >= len(explained.items) / 2
    assert not any(one.reasons for one in plain.items)


async def test_no_city_has_more_than_its_share(shaping: Door, shop: Demo) -> None:
    """A list of eight shows at most two items with one value of the configured attribute."""
    cities = {f"items/{item.item_id}": item.attributes.get("city") for item in shop.items}
    reply = await recommend(shaping, "users/couple-000003", max_results=8)
    assert len(reply.items) == 8
    counts = Counter(cities[one.item] for one in reply.items if cities[one.item])
    assert max(counts.values(), default=0) <= 2


async def test_booked_items_stay_out_and_played_ones_come_back(shaping: Door, shop: Demo) -> None:
    """`include_seen` does not bring back what was booked; a repeatable event does not hide an item; a click does."""
    user = f"users/{uuid.uuid4().hex}"
    booked, played, clicked = [f"items/{item.item_id}" for item in shop.items if not item.content_type][:3]
    done = [(booked, "booking"), (played, "play"), (clicked, "click")]
    await shaping.call(
        "EventService/IngestEvents",
        events.IngestEventsRequest(events=[events.Event(user=user, item=item, event_type=kind) for item, kind in done]),
        events.IngestEventsResponse,
    )

    async def shown(*, include_seen: bool = False) -> set[str]:
        reply = await recommend(shaping, user, max_results=500, include_seen=include_seen)
        return {one.item for one in reply.items} & {booked, played, clicked}

    async def applied() -> bool:
        return clicked not in await shown()

    await eventually(applied)
    assert await shown() == {played}
    assert await shown(include_seen=True) == {played, clicked}


@dataclass(frozen=True)
class Seller:
    """A tenant whose twelve items come from three sellers, a, b and c, and a key of it."""

    tenant_id: TenantId
    key: str

    async def shape(self, database: Database, **changes: float | str | None) -> None:
        """Changes how the tenant's lists are shaped."""
        async with database.tenant(self.tenant_id) as connection:
            await change_shaping(connection, changes)

    async def ask(self, door: Door, user: str, **fields: object) -> pb.RecommendItemsResponse:
        """Returns a list."""
        request = pb.RecommendItemsRequest(user=user, **fields)  # type: ignore[arg-type]  # as above
        return await door.call("RecommendationService/RecommendItems", request, pb.RecommendItemsResponse, key=self.key)

    async def sellers(self, door: Door, user: str, count: int) -> str:
        """Returns the sellers of a list, in order."""
        return "".join(one.item.removeprefix("items/")[0] for one in (await self.ask(door, user, max_results=count)).items)


@pytest.fixture
async def sellers(database: Database, tenant_id: TenantId) -> tuple[Seller, Seller]:
    """Two tenants with the same items. Without events, lists are in the order of ids."""
    made = []
    for name in (tenant_id, TenantId(f"{tenant_id}-b")):
        async with database.system() as connection:
            await ensure_tenant(connection, name)
        async with database.tenant(name) as connection:
            ids = [f"{seller}{number}" for seller in "abc" for number in range(4)]
            await upsert_items(connection, [Item(item_id=ItemId(one), title=one, attributes={"seller": one[0]}) for one in ids])
        made.append(Seller(name, await new_key(database, name)))
    return made[0], made[1]


async def test_two_tenants_of_one_server_are_shaped_each_by_its_own(door: Door, database: Database, sellers: tuple[Seller, Seller]) -> None:
    """Caps, their attribute and booked types are a tenant's own; a tenant that sets nothing has the server's, here none."""
    capped, plain = sellers
    await capped.shape(database, vendor_cap=1, vendor_attribute="attributes.seller", booked_event_types="reserve")
    user = f"users/{uuid.uuid4().hex}"

    async def follows() -> bool:
        return await capped.sellers(door, user, 3) == "abc"

    await eventually(follows)
    assert await plain.sellers(door, user, 3) == "aaa"
    await plain.shape(database, vendor_cap=2, vendor_attribute="attributes.seller")

    async def follows_too() -> bool:
        return await plain.sellers(door, user, 3) == "aab"

    await eventually(follows_too)
    assert await capped.sellers(door, user, 3) == "abc"
    for tenant, shown in ((capped, False), (plain, True)):
        ingested = await door.call(
            "EventService/IngestEvents",
            events.IngestEventsRequest(events=[events.Event(user=user, item="items/a0", event_type="reserve")]),
            events.IngestEventsResponse,
            key=tenant.key,
        )
        reply = await tenant.ask(door, user, max_results=12, include_seen=True, consistency_token=ingested.consistency_token)
        assert ("items/a0" in [one.item for one in reply.items]) == shown


async def test_a_change_takes_hold_while_serving_and_kept_lists_do_not_outlive_it(
    door: Door, database: Database, sellers: tuple[Seller, Seller]
) -> None:
    """A list that a cache holds is not shown under another shaping; with the first shaping again it is right again."""
    tenant, user = sellers[0], f"users/{uuid.uuid4().hex}"
    before = [one.item for one in (await tenant.ask(door, user, max_results=6)).items]
    assert (await tenant.ask(door, user, max_results=6)).cached
    assert [one[-2] for one in before] == list("aaaabb")
    await tenant.shape(database, vendor_cap=2, vendor_attribute="attributes.seller")

    async def follows() -> bool:
        return await tenant.sellers(door, user, 6) == "aabbcc"

    await eventually(follows)
    kept = await tenant.ask(door, user, max_results=6)
    assert kept.cached
    assert [one.item[-2] for one in kept.items] == list("aabbcc")
    await tenant.shape(database, vendor_cap=None, exploration=0.5)

    async def explores() -> bool:
        reply = await tenant.ask(door, f"users/{uuid.uuid4().hex}", max_results=6)
        return min((await record(door, reply.decision, key=tenant.key)).propensities) < 1

    await eventually(explores)
    await tenant.shape(database, exploration=None)

    async def back() -> bool:
        return [one.item for one in (await tenant.ask(door, user, max_results=6)).items] == before

    await eventually(back)
