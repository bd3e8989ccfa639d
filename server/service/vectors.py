"""Named collections of the caller's own vectors, each in an index like the catalogue's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from server.service.deadlines import left_s
from server.store import collections as store
from server.store.collections import StoredVector
from server.store.database import Connection, Database
from server.store.page_tokens import decode_page_token, encode_page_token, page_limit

DEFAULT_K = 10
_PAGE = 2000
_AT_ONCE = 100
"""Vectors that are taken in on the event loop, in about a millisecond; more go to a thread."""


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
    """The collection's: another one of the same id is another collection."""
    revision: int = 0
    heard: int = -1
    """Notices that had come when it was last brought up to the store; -1 while it never was."""
    writing: threading.Lock = field(default_factory=threading.Lock)

    def take_in(self, after: int, page: Sequence[StoredVector]) -> None:
        """Takes in the changes that follow a revision, in the thread it is called in. Does nothing if they came already.

        They did when the call that read them was given up while its thread went on, and the next read them again.
        """
        with self.writing:
            if self.revision != after or not page:
                return
            gone = [ItemId(one.vector_id) for one in page if one.deleted]
            kept = [one for one in page if not one.deleted]
            if gone:
                self.index.delete(gone)
            if kept:
                items = [Item(item_id=ItemId(one.vector_id), title="", attributes=one.attributes) for one in kept]
                self.index.upsert(items, np.stack([np.frombuffer(one.vector, "<f4") for one in kept]))
            self.revision = page[-1].revision


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
        self._notices: Counter[str] = Counter()

    async def upsert(self, tenant_id: TenantId, collection_id: str, vectors: Sequence[GivenVector], *, deadline: float) -> int:
        """Creates or replaces vectors, creating the collection with the first one's dimension; returns how many were sent.

        Raises:
            InvalidFieldError: A vector has another dimension than the collection.
        """
        stored = [StoredVector(one.vector_id, one.vector.astype("<f4").tobytes(), one.attributes) for one in vectors]
        async with self._database.tenant(tenant_id, timeout_s=left_s(deadline)) as connection:
            dimension = await _dimension(connection, collection_id, len(vectors[0].vector))
            for position, one in enumerate(vectors):
                if len(one.vector) != dimension:
                    message = f"has {len(one.vector)} floats; collections/{collection_id} takes {dimension}"
                    raise InvalidFieldError(f"vectors[{position}].vector", message)
            await store.upsert_vectors(connection, collection_id, stored)
        await self._refresh(tenant_id, collection_id, deadline=deadline)
        return len(vectors)

    async def delete(self, tenant_id: TenantId, collection_id: str, vector_ids: Sequence[str], *, deadline: float) -> int:
        """Deletes vectors and returns how many there were.

        Raises:
            NotFoundError: The collection does not exist.
        """
        async with self._database.tenant(tenant_id, timeout_s=left_s(deadline)) as connection:
            await store.get_collection(connection, collection_id)
            deleted = await store.delete_vectors(connection, collection_id, vector_ids)
        await self._refresh(tenant_id, collection_id, deadline=deadline)
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
        loaded = await self._get(tenant_id, collection_id, deadline=deadline)
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
        # One query's scores are as many as its ids, those of the view that searched: rows may be numbered anew by now.
        return [(str(name), float(score)) for name, score in zip(found.ids[0], found.scores[0], strict=True)]

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
        async with self._database.tenant(tenant_id, timeout_s=left_s(deadline)) as connection:
            await store.delete_collection(connection, collection_id)
        self._loaded.pop((tenant_id, collection_id), None)

    def on_notice(self, payload: str) -> None:
        """Hears that something changed: `tenant:collections`, or nothing: notices may have been missed. Then the next search looks."""
        tenant, _, kind = payload.partition(":")
        if kind == "collections" or not payload:
            self._notices[tenant] += 1

    def _heard(self, tenant_id: TenantId) -> int:
        """Returns a number that grows with each notice that concerns the tenant."""
        return self._notices[tenant_id] + self._notices[""]

    async def _get(self, tenant_id: TenantId, collection_id: str, *, deadline: float) -> _Loaded:
        loaded = self._loaded.get((tenant_id, collection_id))
        if loaded is None or loaded.heard != self._heard(tenant_id):
            return await self._refresh(tenant_id, collection_id, deadline=deadline)
        return loaded

    async def _refresh(self, tenant_id: TenantId, collection_id: str, *, deadline: float) -> _Loaded:
        """Brings the collection in memory up to the store and returns it; forgets one that was deleted.

        What was read of a large one stays when the caller gives up, and the next goes on from there; none is searched before it is whole.
        """
        key = (tenant_id, collection_id)
        async with self._locks.setdefault(key, asyncio.Lock()):
            heard = self._heard(tenant_id)  # asked before the store, so that a notice that comes meanwhile makes the next search look
            while True:
                try:
                    loaded, after, page = await self._read(key, deadline=deadline)
                except NotFoundError:
                    self._loaded.pop(key, None)
                    raise
                if len(page) > _AT_ONCE:
                    await asyncio.to_thread(loaded.take_in, after, page)
                else:
                    loaded.take_in(after, page)
                if len(page) < _PAGE:
                    loaded.heard = heard
                    return loaded

    async def _read(self, key: tuple[TenantId, str], *, deadline: float) -> tuple[_Loaded, int, list[StoredVector]]:
        """Returns the collection in memory, the revision it is at, and the next page of changes."""
        tenant_id, collection_id = key
        async with self._database.tenant(tenant_id, timeout_s=left_s(deadline)) as connection:
            collection = await store.get_collection(connection, collection_id)
            loaded = self._loaded.get(key)
            if loaded is None or loaded.create_time != collection.create_time:
                loaded = self._loaded[key] = _Loaded(ItemIndex(collection.dimensions), collection.create_time)
            after = loaded.revision
            return loaded, after, await store.changed_vectors(connection, collection_id, after, _PAGE)


async def _dimension(connection: Connection, collection_id: str, dimension: int) -> int:
    """Returns the collection's dimension, creating it with the given one if there is none."""
    with contextlib.suppress(NotFoundError):
        return (await store.get_collection(connection, collection_id)).dimensions
    with contextlib.suppress(AlreadyExistsError):
        return (await store.create_collection(connection, collection_id, dimension)).dimensions
    return (await store.get_collection(connection, collection_id)).dimensions  # another caller was faster; its dimension counts
