import asyncio
from datetime import UTC, datetime

import pytest

from server.domain import Item, ItemId, TenantId
from server.errors import AbortedError, AlreadyExistsError, InvalidArgumentError, InvalidFieldError, NotFoundError
from server.store import Database
from server.store.items import (
    changed_items,
    create_item,
    delete_item,
    get_item,
    items_without_vector,
    list_items,
    set_text_vectors,
    update_item,
    upsert_items,
)
from tests.fixtures_store import count_items


def item(item_id: str, title: str = "A title", **fields: object) -> Item:
    """Returns an item whose fields matter only where given."""
    return Item(item_id=ItemId(item_id), title=title, **fields)  # type: ignore[arg-type]  # the tests name fields freely


async def test_every_field_of_an_item_survives_the_way_to_the_database_and_back(database: Database, tenant_id: TenantId) -> None:
    """An item that was created reads back equal, times and JSON included."""
    wanted = item(
        "venue-1",
        "Quinta do Lago",
        description="Ünïcode & 'quotes' \U0001f490",
        categories=("Venue", "Garden"),
        attributes={"city": "Porto", "seats": 120, "tags": ["a", {"b": None}]},
        content_type="hero_banner",
        price=4999.5,
        currency="EUR",
        language="pt",
        available_from=datetime(2026, 5, 1, tzinfo=UTC),
        available_until=datetime(2027, 5, 1, 12, 30, 15, 123456, tzinfo=UTC),
        create_time=None,
    )
    async with database.tenant(tenant_id) as connection:
        await create_item(connection, wanted)
        stored = await get_item(connection, ItemId("venue-1"))
    for name in Item.__slots__:
        if name not in {"create_time", "update_time"}:
            assert getattr(wanted, name) == getattr(stored.item, name)
    assert stored.item.create_time is not None
    assert stored.item.create_time == stored.item.update_time


async def test_create_refuses_an_id_in_use_and_takes_a_deleted_one(database: Database, tenant_id: TenantId) -> None:
    """Create never replaces; after a delete the id is free, and old etags do not fit the new item."""
    async with database.tenant(tenant_id) as connection:
        first = await create_item(connection, item("a"))
        with pytest.raises(AlreadyExistsError):
            await create_item(connection, item("a"))
        await delete_item(connection, ItemId("a"))
        with pytest.raises(NotFoundError):
            await get_item(connection, ItemId("a"))
        again = await create_item(connection, item("a", "Another"))
        with pytest.raises(AbortedError):
            await update_item(connection, item("a", "Third"), etag=first.etag)
        assert again.etag != first.etag


async def test_of_two_writers_with_one_etag_the_second_is_refused(database: Database, tenant_id: TenantId) -> None:
    """An update or delete with an outdated etag is ABORTED and changes nothing."""
    async with database.tenant(tenant_id) as connection:
        etag = (await create_item(connection, item("a"))).etag
        changed = await update_item(connection, item("a", "First"), etag=etag)
        with pytest.raises(AbortedError, match="read it again"):
            await update_item(connection, item("a", "Second"), etag=etag)
        with pytest.raises(AbortedError):
            await delete_item(connection, ItemId("a"), etag=etag)
        with pytest.raises(InvalidFieldError, match="etag"):
            await update_item(connection, item("a"), etag="W/x")
        assert (await get_item(connection, ItemId("a"))).item.title == "First"
        await delete_item(connection, ItemId("a"), etag=changed.etag)
        with pytest.raises(NotFoundError):
            await update_item(connection, item("a"))
        with pytest.raises(NotFoundError):
            await delete_item(connection, ItemId("a"))


async def test_upsert_counts_and_leaves_equal_rows_alone(database: Database, tenant_id: TenantId) -> None:
    """A repeated bulk upsert changes no revision; of several rows with one id the last counts; deleted ids come back."""
    async with database.tenant(tenant_id) as connection:
        counts = await upsert_items(connection, [item("a", "old"), item("b"), item("a", "new")])
        assert (counts.created, counts.updated, counts.unchanged) == (2, 0, 0)
        assert (await get_item(connection, ItemId("a"))).item.title == "new"
    async with database.tenant(tenant_id) as connection:
        before = {name: await get_item(connection, ItemId(name)) for name in "ab"}
        await delete_item(connection, ItemId("b"))
        counts = await upsert_items(connection, [item("a", "new"), item("b"), item("c")])
        assert (counts.created, counts.updated, counts.unchanged) == (1, 1, 1)
        after = {name: await get_item(connection, ItemId(name)) for name in "abc"}
        assert after["a"] == before["a"]
        assert after["b"].revision > before["b"].revision
        assert await count_items(connection) == 3


async def test_pages_cover_every_item_once_and_only_the_end_has_no_token(database: Database, tenant_id: TenantId) -> None:
    """Following next_page_token visits all items in id order, whatever the page size."""
    ids = [f"i{number:02}" for number in range(7)]
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, [item(item_id, content_type="x" if item_id == "i03" else "") for item_id in ids])
        for page_size in (1, 3, 7, 0):
            seen: list[str] = []
            token = ""
            while True:
                page = await list_items(connection, page_size=page_size, page_token=token)
                assert page.items
                seen += [stored.item.item_id for stored in page.items]
                token = page.next_page_token
                if not token:
                    break
            assert ids == seen
        page = await list_items(connection, content_type="x")
        assert [stored.item.item_id for stored in page.items] == ["i03"]
        assert len((await list_items(connection, content_type="")).items) == 6


async def test_a_page_token_fits_its_own_request_only(database: Database, tenant_id: TenantId) -> None:
    """A token that was altered, invented, or is used with other arguments is an error that names page_token."""
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, [item("a"), item("b")])
        token = (await list_items(connection, page_size=1)).next_page_token
        for wrong in (token[:-2], "x" + token, "AAAA", "%%%", "ü", token + "=", "a" * 10_000):
            with pytest.raises(InvalidFieldError, match="page_token"):
                await list_items(connection, page_size=1, page_token=wrong)
        with pytest.raises(InvalidFieldError, match="page_token"):
            await list_items(connection, page_size=1, page_token=token, content_type="x")
        with pytest.raises(InvalidFieldError, match="page_token"):
            await list_items(connection, page_size=1, page_token=token, bound={"filter": "price > 1"})
        with pytest.raises(InvalidFieldError, match="page_size"):
            await list_items(connection, page_size=-1)


async def test_the_change_feed_tells_every_change_in_order(database: Database, tenant_id: TenantId) -> None:
    """A replica that polls after its last revision sees creations, updates, vectors and deletions, once each."""
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, [item("a"), item("b")])
    async with database.tenant(tenant_id) as connection:
        changes = await changed_items(connection, 0, 10)
        assert [change.item.item_id for change in changes] == ["a", "b"]
        seen = changes[-1].revision
        assert await set_text_vectors(connection, "m1", [(changes[0], bytes(1536))]) == 1
        await delete_item(connection, ItemId("b"))
    async with database.tenant(tenant_id) as connection:
        changes = await changed_items(connection, seen, 10)
        assert [(change.item.item_id, change.deleted, change.text_vector_model) for change in changes] == [
            ("a", False, "m1"),
            ("b", True, ""),
        ]
        assert len(await changed_items(connection, seen, 1)) == 1


async def test_a_slow_writer_does_not_hide_its_changes_from_the_feed(database: Database, tenant_id: TenantId) -> None:
    """While one transaction has drawn a revision and not committed, no other of the tenant commits a higher one."""
    slow_wrote, may_commit = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with database.tenant(tenant_id) as connection:
            await upsert_items(connection, [item("slow")])
            slow_wrote.set()
            await may_commit.wait()

    async def fast() -> None:
        await slow_wrote.wait()
        async with database.tenant(tenant_id) as connection:
            await upsert_items(connection, [item("fast")])

    writers = [asyncio.create_task(slow()), asyncio.create_task(fast())]
    await slow_wrote.wait()
    await asyncio.wait([writers[1]], timeout=0.2)
    async with database.tenant(tenant_id) as connection:
        assert await changed_items(connection, 0, 10) == []
    may_commit.set()
    await asyncio.gather(*writers)
    async with database.tenant(tenant_id) as connection:
        assert [change.item.item_id for change in await changed_items(connection, 0, 10)] == ["slow", "fast"]


async def test_a_text_vector_lives_as_long_as_its_text(database: Database, tenant_id: TenantId) -> None:
    """A changed text loses its vector, a changed price keeps it, and a vector of an outdated text is not stored."""
    async with database.tenant(tenant_id) as connection:
        outdated = await create_item(connection, item("a"))
        await update_item(connection, item("a", "New text"))
        assert await set_text_vectors(connection, "m1", [(outdated, bytes(1536))]) == 0
        (missing,) = await items_without_vector(connection, "m1", 10)
        assert await set_text_vectors(connection, "m1", [(missing, bytes(1536))]) == 1
        assert (await update_item(connection, item("a", "New text", price=5.0))).text_vector == bytes(1536)
        assert await items_without_vector(connection, "m1", 10) == []
        assert len(await items_without_vector(connection, "m2", 10)) == 1
        assert (await update_item(connection, item("a", "New text", description="more"))).text_vector is None


@pytest.mark.parametrize("title", ["nul \0 inside", "half \ud800 a pair"])
async def test_text_that_the_database_cannot_store_is_the_callers_error(database: Database, tenant_id: TenantId, title: str) -> None:
    """U+0000 and lone surrogates are refused as invalid, in columns and in JSON, and the connection stays usable."""
    for bad in (item("a", title), item("a", attributes={"key": title})):
        with pytest.raises(InvalidArgumentError):
            async with database.tenant(tenant_id) as connection:
                await create_item(connection, bad)
        with pytest.raises(InvalidArgumentError):
            async with database.tenant(tenant_id) as connection:
                await upsert_items(connection, [bad])
    async with database.tenant(tenant_id) as connection:
        assert await count_items(connection) == 0


async def test_a_tenant_that_nobody_created_is_an_error_that_says_so(database: Database) -> None:
    """Writing for an unknown tenant names the command that creates it."""
    with pytest.raises(NotFoundError, match="aisle tenants create"):
        async with database.tenant(TenantId("nobody")) as connection:
            await create_item(connection, item("a"))
