"""Items: the catalogue, its bulk writes and its change feed.

Deleted items stay as rows with `delete_time`, unseen by everything but `changed_items`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import asyncpg

from server.domain import Item, ItemId
from server.errors import AbortedError, AlreadyExistsError, InvalidFieldError, NotFoundError
from server.store.database import Connection
from server.store.page_tokens import decode_page_token, encode_page_token, page_limit
from server.store.staging import stage

_FIELDS = tuple(field.name for field in fields(Item))
_WRITTEN = tuple(name for name in _FIELDS if name not in {"create_time", "update_time"})
_COLUMNS = ", ".join(_WRITTEN)
_VALUES = ", ".join(f"${position}" for position in range(1, len(_WRITTEN) + 1))
_ETAG = f"${len(_WRITTEN) + 1}"
_ASSIGNMENTS = ", ".join(f"{name} = excluded.{name}" for name in _WRITTEN if name != "item_id")
_OLD = ", ".join(f"items.{name}" for name in _WRITTEN)
_NEW = ", ".join(f"excluded.{name}" for name in _WRITTEN)
_REVIVE = f"{_ASSIGNMENTS}, delete_time = NULL, version = items.version + 1, update_time = now()"


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as stored, with what replicas and writers need beside it."""

    item: Item
    etag: str
    """Changes whenever the item does."""
    revision: int
    """Orders all changes of the tenant's items, also those of vectors and deletions."""
    deleted: bool
    text_vector: bytes | None
    """384 little-endian float32, or None until the encoder has seen the current text."""
    text_vector_model: str


@dataclass(frozen=True, slots=True)
class ItemPage:
    """One page of a list. An empty `next_page_token` is the end."""

    items: tuple[StoredItem, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class UpsertCounts:
    """What a bulk upsert did. Rows equal to what was stored are left alone and keep their revision."""

    created: int
    updated: int
    unchanged: int


def _stored(row: asyncpg.Record) -> StoredItem:
    item = {name: row[name] for name in _FIELDS}
    return StoredItem(
        item=Item(**{**item, "categories": tuple(item["categories"])}),
        etag=str(row["version"]),
        revision=row["revision"],
        deleted=row["delete_time"] is not None,
        text_vector=row["text_vector"],
        text_vector_model=row["text_vector_model"],
    )


def _record(item: Item) -> tuple[Any, ...]:
    return tuple(list(item.categories) if name == "categories" else getattr(item, name) for name in _WRITTEN)


def _parse_etag(etag: str) -> int | None:
    if etag and not etag.isdecimal():
        raise InvalidFieldError("etag", "is not one that this item had; read the item and send its etag, or leave it out")
    return int(etag) if etag else None


async def get_item(connection: Connection, item_id: ItemId) -> StoredItem:
    """Returns an item.

    Raises:
        NotFoundError: It does not exist, or was deleted.
    """
    row = await connection.fetchrow("SELECT * FROM items WHERE item_id = $1 AND delete_time IS NULL", item_id)
    if row is None:
        raise NotFoundError(f"items/{item_id}")
    return _stored(row)


async def list_items(
    connection: Connection,
    *,
    page_size: int = 0,
    page_token: str = "",
    content_type: str | None = None,
    bound: Mapping[str, str] | None = None,
) -> ItemPage:
    """Returns a page of items in the order of their ids.

    Args:
        connection: Of `Database.tenant()`.
        page_size: 0 for 50; at most 1000.
        page_token: `next_page_token` of the page before, which must have had the same arguments.
        content_type: Only items of this content type; the empty string: only what is recommended. None: all.
        bound: Further arguments of the caller's request that the token must match, such as a filter.

    Raises:
        InvalidFieldError: `page_size` is negative, or `page_token` is not one that the same request returned.
    """
    limit = page_limit(page_size)
    tenant = await connection.fetchval("SELECT current_setting('aisle.tenant_id')")
    arguments = {**(bound or {}), "list": "items", "tenant": tenant, "content_type": repr(content_type)}
    rows = await connection.fetch(
        "SELECT * FROM items WHERE item_id > $1 AND delete_time IS NULL AND ($2::text IS NULL OR content_type = $2) "
        "ORDER BY item_id LIMIT $3",
        decode_page_token(page_token, arguments),
        content_type,
        limit + 1,
    )
    token = encode_page_token(rows[limit - 1]["item_id"], arguments) if len(rows) > limit else ""
    return ItemPage(tuple(_stored(row) for row in rows[:limit]), token)


async def create_item(connection: Connection, item: Item) -> StoredItem:
    """Creates an item. An id that was deleted may be used again.

    Raises:
        AlreadyExistsError: The id is in use.
    """
    row = await connection.fetchrow(
        f"INSERT INTO items ({_COLUMNS}) VALUES ({_VALUES}) ON CONFLICT (tenant_id, item_id) DO UPDATE "  # noqa: S608  # names are ours
        f"SET {_REVIVE}, create_time = now() WHERE items.delete_time IS NOT NULL RETURNING *",
        *_record(item),
    )
    if row is None:
        raise AlreadyExistsError(f"items/{item.item_id}")
    return _stored(row)


async def update_item(connection: Connection, item: Item, *, etag: str = "") -> StoredItem:
    """Replaces an item; a caller with an update mask reads, changes the masked fields and writes with the etag it read.

    Raises:
        NotFoundError: It does not exist.
        AbortedError: `etag` is given and is no longer the item's.
    """
    row = await connection.fetchrow(
        f"UPDATE items SET ({_COLUMNS}) = ROW ({_VALUES}), version = version + 1, update_time = now() "  # noqa: S608  # names are ours
        f"WHERE item_id = $1 AND delete_time IS NULL AND ({_ETAG}::bigint IS NULL OR version = {_ETAG}) RETURNING *",
        *_record(item),
        _parse_etag(etag),
    )
    if row is None:
        raise await _missed(connection, item.item_id)
    return _stored(row)


async def delete_item(connection: Connection, item_id: ItemId, *, etag: str = "") -> None:
    """Deletes an item; replicas learn of it from the change feed.

    Raises:
        NotFoundError: It does not exist.
        AbortedError: `etag` is given and is no longer the item's.
    """
    deleted = await connection.fetchval(
        "UPDATE items SET delete_time = now(), version = version + 1 "
        "WHERE item_id = $1 AND delete_time IS NULL AND ($2::bigint IS NULL OR version = $2) RETURNING true",
        item_id,
        _parse_etag(etag),
    )
    if deleted is None:
        raise await _missed(connection, item_id)


async def _missed(connection: Connection, item_id: ItemId) -> NotFoundError | AbortedError:
    exists = await connection.fetchval("SELECT true FROM items WHERE item_id = $1 AND delete_time IS NULL", item_id)
    if exists is None:
        return NotFoundError(f"items/{item_id}")
    return AbortedError(f"items/{item_id} was changed since its etag was read; read it again and retry", resource=f"items/{item_id}")


async def upsert_items(connection: Connection, items: Iterable[Item]) -> UpsertCounts:
    """Creates or replaces items in bulk; of several with one id the last counts. All or nothing."""
    records = {item.item_id: _record(item) for item in items}
    staged = await stage(connection, "items", _WRITTEN, records.values())
    # xmax is 0 in a row that the statement inserted.
    row = await connection.fetchrow(
        f"WITH written AS (INSERT INTO items ({_COLUMNS}) SELECT {_COLUMNS} FROM {staged} ON CONFLICT (tenant_id, item_id) DO UPDATE "  # noqa: S608
        f"SET {_REVIVE}, create_time = CASE WHEN items.delete_time IS NULL THEN items.create_time ELSE now() END "
        f"WHERE items.delete_time IS NOT NULL OR ({_OLD}) IS DISTINCT FROM ({_NEW}) RETURNING xmax = 0 AS created) "
        "SELECT count(*) FILTER (WHERE created) AS created, count(*) AS written FROM written"
    )
    assert row is not None
    created, written = row["created"], row["written"]
    return UpsertCounts(created=created, updated=written - created, unchanged=len(records) - written)


async def changed_items(connection: Connection, after_revision: int, limit: int) -> list[StoredItem]:
    """Returns the items changed after a revision, deleted ones too, in the order of their revisions.

    No change is ever skipped: writers of one tenant commit in the order of the revisions they drew.
    """
    rows = await connection.fetch("SELECT * FROM items WHERE revision > $1 ORDER BY revision LIMIT $2", after_revision, limit)
    return [_stored(row) for row in rows]


async def items_without_vector(connection: Connection, model: str, limit: int) -> list[StoredItem]:
    """Returns items whose text vector is missing or of another model than `model`, in the order of their revisions."""
    rows = await connection.fetch(
        "SELECT * FROM items WHERE delete_time IS NULL AND (text_vector IS NULL OR text_vector_model <> $1) ORDER BY revision LIMIT $2",
        model,
        limit,
    )
    return [_stored(row) for row in rows]


async def set_text_vectors(connection: Connection, model: str, vectors: Sequence[tuple[StoredItem, bytes]]) -> int:
    """Stores text vectors and returns how many; those of items that changed since they were read are left for the next round.

    Args:
        connection: Of `Database.tenant()`.
        model: Version of the text encoder.
        vectors: The item as it was read, and its vector: 384 little-endian float32.
    """
    tag = await connection.execute(
        "UPDATE items SET text_vector = given.vector, text_vector_model = $1 "
        "FROM unnest($2::text[], $3::bigint[], $4::bytea[]) AS given (item_id, version, vector) "
        "WHERE items.item_id = given.item_id AND items.version = given.version AND items.delete_time IS NULL",
        model,
        [stored.item.item_id for stored, _ in vectors],
        [int(stored.etag) for stored, _ in vectors],
        [vector for _, vector in vectors],
    )
    return int(tag.rpartition(" ")[2])
