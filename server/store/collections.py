"""Callers' named vector collections.

Deleted vectors stay as rows without contents, unseen by everything but `changed_vectors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from server.errors import AlreadyExistsError, InvalidFieldError, NotFoundError
from server.store.database import Connection
from server.store.staging import stage

_COLUMNS = ("collection_id", "vector_id", "vector", "attributes")


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of vectors of one length."""

    collection_id: str
    dimensions: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class StoredVector:
    """A vector of a collection."""

    vector_id: str
    vector: bytes
    """Little-endian float32, as many as the collection has dimensions; empty if deleted."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 0
    """Orders all changes of the collection; 0 in a vector that is to be written."""
    deleted: bool = False


async def create_collection(connection: Connection, collection_id: str, dimensions: int) -> Collection:
    """Creates an empty collection.

    Raises:
        AlreadyExistsError: The id is in use.
    """
    row = await connection.fetchrow(
        "INSERT INTO collections (collection_id, dimensions) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING *", collection_id, dimensions
    )
    if row is None:
        raise AlreadyExistsError(f"collections/{collection_id}")
    return _collection(row)


async def get_collection(connection: Connection, collection_id: str) -> Collection:
    """Returns a collection.

    Raises:
        NotFoundError: It does not exist.
    """
    row = await connection.fetchrow("SELECT * FROM collections WHERE collection_id = $1", collection_id)
    if row is None:
        raise NotFoundError(f"collections/{collection_id}")
    return _collection(row)


async def list_collections(connection: Connection) -> list[Collection]:
    """Returns the tenant's collections by id."""
    return [_collection(row) for row in await connection.fetch("SELECT * FROM collections ORDER BY collection_id")]


async def count_vectors(connection: Connection) -> dict[str, int]:
    """Returns how many vectors each collection holds; empty collections are absent."""
    rows = await connection.fetch("SELECT collection_id, count(*) AS vectors FROM collection_vectors WHERE delete_time IS NULL GROUP BY 1")
    return {row["collection_id"]: row["vectors"] for row in rows}


async def delete_collection(connection: Connection, collection_id: str) -> None:
    """Deletes a collection with all its vectors.

    Raises:
        NotFoundError: It does not exist.
    """
    if await connection.fetchval("DELETE FROM collections WHERE collection_id = $1 RETURNING true", collection_id) is None:
        raise NotFoundError(f"collections/{collection_id}")


async def upsert_vectors(connection: Connection, collection_id: str, vectors: Iterable[StoredVector]) -> int:
    """Creates or replaces vectors and returns how many changed; of several with one id the last counts. All or nothing.

    Raises:
        NotFoundError: The collection does not exist.
        InvalidFieldError: A vector does not have the collection's dimensions.
    """
    collection = await get_collection(connection, collection_id)
    records = {vector.vector_id: (collection_id, vector.vector_id, vector.vector, dict(vector.attributes)) for vector in vectors}
    for vector_id, record in records.items():
        if len(record[2]) != 4 * collection.dimensions:
            message = f"{vector_id!r} has {len(record[2])} bytes; collections/{collection_id} takes {collection.dimensions} float32"
            raise InvalidFieldError("vector", message)
    staged = await stage(connection, "collection_vectors", _COLUMNS, records.values())
    tag = await connection.execute(
        "INSERT INTO collection_vectors (collection_id, vector_id, vector, attributes) "  # noqa: S608  # names are ours
        f"SELECT collection_id, vector_id, vector, attributes FROM {staged} ON CONFLICT (tenant_id, collection_id, vector_id) DO UPDATE "
        "SET vector = excluded.vector, attributes = excluded.attributes, delete_time = NULL "
        "WHERE collection_vectors.delete_time IS NOT NULL "
        "OR (collection_vectors.vector, collection_vectors.attributes) IS DISTINCT FROM (excluded.vector, excluded.attributes)"
    )
    return int(tag.rpartition(" ")[2])


async def delete_vectors(connection: Connection, collection_id: str, vector_ids: Iterable[str]) -> int:
    """Deletes vectors and returns how many there were; ids that do not exist are passed over."""
    tag = await connection.execute(
        "UPDATE collection_vectors SET delete_time = now(), vector = '', attributes = '{}' "
        "WHERE collection_id = $1 AND vector_id = ANY($2) AND delete_time IS NULL",
        collection_id,
        list(vector_ids),
    )
    return int(tag.rpartition(" ")[2])


async def changed_vectors(connection: Connection, collection_id: str, after_revision: int, limit: int) -> list[StoredVector]:
    """Returns the vectors changed after a revision, deleted ones too, in the order of their revisions. No change is ever skipped."""
    rows = await connection.fetch(
        "SELECT vector_id, vector, attributes, revision, delete_time FROM collection_vectors "
        "WHERE collection_id = $1 AND revision > $2 ORDER BY revision LIMIT $3",
        collection_id,
        after_revision,
        limit,
    )
    return [
        StoredVector(row["vector_id"], row["vector"], row["attributes"], revision=row["revision"], deleted=row["delete_time"] is not None)
        for row in rows
    ]


def _collection(row: asyncpg.Record) -> Collection:
    return Collection(collection_id=row["collection_id"], dimensions=row["dimensions"], create_time=row["create_time"])
