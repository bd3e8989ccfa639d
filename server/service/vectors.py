"""Named collections of the caller's own vectors, each in an index like the catalogue's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from server.domain import Item, ItemId, TenantId
from server.domain.ranking import VIEW_DIMENSIONS
from server.errors import AlreadyExistsError, InvalidFieldError, NotFoundError
from server.inference import TextEncoder
from server.retrieval.filters import compile_filter
from server.retrieval.index import ItemIndex
from server.store import collections as store
from server.store.collections import StoredVector
from server.store.database import Connection, Database
from server.store.page_tokens import decode_page_token, encode_page_token, page_limit

DEFAULT_K = 10
_PAGE = 2000


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as callers see it."""

    collection_id: str
    dimension: int
    vector_count: int


@dataclass(frozen=True, slots=True)
class GivenVector:
    """A vector that a caller sent."""

    vector_id: str
    vector: NDArray[np.float32]
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class _Loaded:
    """A collection in memory."""

    index: ItemIndex
    create_time: datetime
    """Of the collection: one that was deleted and made again is another."""
    revision: int = 0


def parse_vector(content: bytes, name: str) -> NDArray[np.float32]:
    """Returns the vector in little-endian float32 bytes.

    Raises:
        InvalidFieldError: The length is no multiple of four, or a number is NaN or infinite.
    """
    if len(content) % 4:
        raise InvalidFieldError(name, f"has {len(content)} bytes; little-endian float32 comes in fours")
    vector = np.frombuffer(content, "<f4")
    if not np.isfinite(vector).all():
        raise InvalidFieldError(name, f"holds NaN or infinity at position {int(np.flatnonzero(~np.isfinite(vector))[0])}")
    return vector


class Vectors:
    """The use cases of VectorService. Each search first takes in what other replicas wrote, one indexed query."""

    def __init__(self, database: Database, encoder: TextEncoder) -> None:
        self._database = database
        self._encoder = encoder
        self._loaded: dict[tuple[TenantId, str], _Loaded] = {}
        self._locks: WeakValueDictionary[tuple[TenantId, str], asyncio.Lock] = WeakValueDictionary()
        self._changed: set[tuple[TenantId, str]] = set()

    async def upsert(self, tenant_id: TenantId, collection_id: str, vectors: Sequence[GivenVector], *, deadline: float) -> int:
        """Creates or replaces vectors, creating the collection with the first one's dimension; returns how many were sent.

        Raises:
            InvalidFieldError: A vector has another dimension than the collection.
        """
        stored = [StoredVector(one.vector_id, one.vector.astype("<f4").tobytes(), one.attributes) for one in vectors]
        async with self._database.tenant(tenant_id, timeout_s=_left(deadline)) as connection:
            dimension = await _dimension(connection, collection_id, len(vectors[0].vector))
            for position, one in enumerate(vectors):
                if len(one.vector) != dimension:
                    message = f"has {len(one.vector)} floats; collections/{collection_id} takes {dimension}"
                    raise InvalidFieldError(f"vectors[{position}].vector", message)
            await store.upsert_vectors(connection, collection_id, stored)
        await self._refresh(tenant_id, collection_id)
        return len(vectors)

    async def delete(self, tenant_id: TenantId, collection_id: str, vector_ids: Sequence[str], *, deadline: float) -> int:
        """Deletes vectors and returns how many there were.

        Raises:
            NotFoundError: The collection does not exist.
        """
        async with self._database.tenant(tenant_id, timeout_s=_left(deadline)) as connection:
            await store.get_collection(connection, collection_id)
            deleted = await store.delete_vectors(connection, collection_id, vector_ids)
        await self._refresh(tenant_id, collection_id)
        return deleted

    async def search(
        self, tenant_id: TenantId, collection_id: str, query: NDArray[np.float32] | str, *, k: int, where: str, deadline: float
    ) -> list[tuple[str, float]]:
        """Returns the ids with the largest inner products with the query, and those, best first.

        Raises:
            NotFoundError: The collection does not exist.
            InvalidFieldError: The query has another dimension than the collection.
            FilterSyntaxError: The filter does not parse.
        """
        selector = compile_filter(where) if where.strip() else None
        loaded = await self._get(tenant_id, collection_id)
        if isinstance(query, str):
            if loaded.index.dimension != VIEW_DIMENSIONS:
                message = f"needs a collection of dimension {VIEW_DIMENSIONS}; this one has {loaded.index.dimension}, so send `vector`"
                raise InvalidFieldError("text", message)
            vector = (await self._encoder.embed([query], deadline=deadline)).vectors[0]
        elif len(query) != loaded.index.dimension:
            raise InvalidFieldError("vector", f"has {len(query)} floats; collections/{collection_id} takes {loaded.index.dimension}")
        else:
            vector = query
        found = await loaded.index.search(vector[None], k or DEFAULT_K, where=selector)
        rows = found.rows[0]
        return [(str(name), float(score)) for name, score in zip(loaded.index.ids(rows), found.scores[0], strict=True)]

    async def list_page(self, tenant_id: TenantId, *, page_size: int, page_token: str) -> tuple[list[CollectionInfo], str]:
        """Returns a page of the collections, in the order of their ids, and the token of the next."""
        limit = page_limit(page_size)
        after = decode_page_token(page_token, {"list": "collections"})
        async with self._database.tenant(tenant_id) as connection:
            known = [one for one in await store.list_collections(connection) if one.collection_id > after]
            counts = await store.count_vectors(connection)
        page = [CollectionInfo(one.collection_id, one.dimensions, counts.get(one.collection_id, 0)) for one in known[:limit]]
        token = encode_page_token(page[-1].collection_id, {"list": "collections"}) if len(known) > limit else ""
        return page, token

    async def drop(self, tenant_id: TenantId, collection_id: str, *, deadline: float) -> None:
        """Deletes a collection with its vectors.

        Raises:
            NotFoundError: It does not exist.
        """
        async with self._database.tenant(tenant_id, timeout_s=_left(deadline)) as connection:
            await store.delete_collection(connection, collection_id)
        self._loaded.pop((tenant_id, collection_id), None)

    def on_notice(self, payload: str) -> None:
        """Hears that something changed: `tenant:collections`, or anything, if empty. The next search looks for changes."""
        tenant, _, kind = payload.partition(":")
        if not payload:
            self._changed.update(self._loaded)
        elif kind == "collections":
            self._changed.update(key for key in self._loaded if key[0] == tenant)

    async def _get(self, tenant_id: TenantId, collection_id: str) -> _Loaded:
        key = (tenant_id, collection_id)
        loaded = self._loaded.get(key)
        return await self._refresh(tenant_id, collection_id) if loaded is None or key in self._changed else loaded

    async def _refresh(self, tenant_id: TenantId, collection_id: str) -> _Loaded:
        """Brings the collection in memory up to the store, loading it if need be; forgets one that was deleted.

        Nobody sees a collection that is half loaded, nor takes one for whole whose changes could not be read.
        """
        key = (tenant_id, collection_id)
        async with self._locks.setdefault(key, asyncio.Lock()):
            self._changed.discard(key)
            try:
                async with self._database.tenant(tenant_id) as connection:
                    collection = await store.get_collection(connection, collection_id)
                loaded = self._loaded.get(key)
                if loaded is None or loaded.create_time != collection.create_time:
                    loaded = _Loaded(ItemIndex(collection.dimensions), collection.create_time)
                await self._take_changes(tenant_id, collection_id, loaded)
            except NotFoundError:
                self._loaded.pop(key, None)
                raise
            except BaseException:
                if key in self._loaded:
                    self._changed.add(key)
                raise
            self._loaded[key] = loaded
            return loaded

    async def _take_changes(self, tenant_id: TenantId, collection_id: str, loaded: _Loaded) -> None:
        while True:
            async with self._database.tenant(tenant_id) as connection:
                page = await store.changed_vectors(connection, collection_id, loaded.revision, _PAGE)
            _take_in(loaded, page)
            if len(page) < _PAGE:
                return


def _take_in(loaded: _Loaded, page: Sequence[StoredVector]) -> None:
    gone = [ItemId(one.vector_id) for one in page if one.deleted]
    kept = [one for one in page if not one.deleted]
    if gone:
        loaded.index.delete(gone)
    if kept:
        items = [Item(item_id=ItemId(one.vector_id), title="", attributes=one.attributes) for one in kept]
        loaded.index.upsert(items, np.stack([np.frombuffer(one.vector, "<f4") for one in kept]))
    if page:
        loaded.revision = page[-1].revision


async def _dimension(connection: Connection, collection_id: str, dimension: int) -> int:
    """Returns the collection's dimension, creating it with the given one if there is none."""
    with contextlib.suppress(NotFoundError):
        return (await store.get_collection(connection, collection_id)).dimensions
    with contextlib.suppress(AlreadyExistsError):
        return (await store.create_collection(connection, collection_id, dimension)).dimensions
    return (await store.get_collection(connection, collection_id)).dimensions  # another caller was faster; its dimension counts


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
