"""Named collections of callers' vectors, through both doors."""

from __future__ import annotations

import asyncio
import uuid
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from aisle.v1 import embedding_service_pb2 as embedding
from aisle.v1 import vector_service_pb2 as pb
from server.domain import TenantId
from server.store import Database, collections
from server.store.collections import StoredVector
from tests.eventually import eventually
from tests.fixtures_server import SHOP, Door

Given = Mapping[str, tuple[Sequence[float], Mapping[str, Any]]]

POINTS: Given = {
    "x": ((1, 0, 0), {"city": "Porto", "price": 10}),
    "y": ((0, 1, 0), {"city": "Lisbon", "price": 20}),
    "z": ((0, 0.5, 1), {"city": "Porto", "price": 30}),
}


async def put(door: Door, name: str, given: Given) -> None:
    """Writes vectors."""
    sent = [pb.Vector(id=one, vector=np.array(vector, "<f4").tobytes(), attributes=about) for one, (vector, about) in given.items()]
    await door.call("VectorService/UpsertVectors", pb.UpsertVectorsRequest(collection=name, vectors=sent), pb.UpsertVectorsResponse)


async def found(door: Door, name: str, query: Sequence[float], **fields: Any) -> list[tuple[str, float]]:
    """Returns what both doors find, which is the same."""
    vector = np.array(query, "<f4").tobytes()
    request = pb.SearchVectorsRequest(collection=name, vector=vector, **fields)
    reply = await door.call("VectorService/SearchVectors", request, pb.SearchVectorsResponse)
    response = await door.rest("POST", f"/v1/{name}:searchVectors", json={"vector": b64encode(vector).decode(), **fields})
    ours = [(match.id, match.score) for match in reply.matches]
    assert [(one["id"], one.get("score", 0.0)) for one in response.json().get("matches", [])] == ours
    return ours


def new_name() -> str:
    """The name of a collection that no other test uses."""
    return f"collections/c{uuid.uuid4().hex}"


async def test_the_next_search_sees_every_write(door: Door) -> None:
    """Vectors are found by inner product as soon as they are written, changed when written again, and gone when deleted."""
    name = new_name()
    await put(door, name, POINTS)
    assert await found(door, name, (0, 1, 0)) == [("y", 1.0), ("z", 0.5), ("x", 0.0)]
    assert await found(door, name, (0, 1, 0), k=1) == [("y", 1.0)]
    assert await found(door, name, (0, 1, 0), filter='attributes.city = "Porto" AND attributes.price > 10') == [("z", 0.5)]
    assert await found(door, name, (0, 1, 0), filter='attributes.city = "Faro"') == []
    await put(door, name, {"x": ((0, 9, 0), {})})
    assert (await found(door, name, (0, 1, 0), k=1))[0] == ("x", 9.0)
    gone = await door.rest("POST", f"/v1/{name}:deleteVectors", json={"ids": ["x", "nothing"]})
    assert gone.json() == {"deletedCount": 1}
    assert [one for one, _ in await found(door, name, (0, 1, 0))] == ["y", "z"]


async def test_a_collection_made_anew_holds_nothing_old(door: Door) -> None:
    """A collection is listed with its size until it is deleted; one of the same name afterwards is empty and has its own dimension."""
    name = new_name()
    await put(door, name, POINTS)
    listed = {one["name"]: one for one in (await door.rest("GET", "/v1/collections?pageSize=1000")).json()["collections"]}
    assert listed[name] == {"name": name, "dimension": 3, "vectorCount": "3"}
    assert (await door.rest("DELETE", f"/v1/{name}")).status_code == 200
    assert (await door.rest("POST", f"/v1/{name}:searchVectors", json={"text": "a"})).status_code == 404
    await put(door, name, {"new": ((1, 1), {})})
    assert await found(door, name, (1, 0)) == [("new", 1.0)]


async def test_another_replicas_writes_are_seen(door: Door, database: Database) -> None:
    """What another process writes is found a moment later, also when it deleted the collection and made it again with one vector."""
    name = new_name()
    short = name.removeprefix("collections/")
    await put(door, name, POINTS)
    await found(door, name, (0, 1, 0))

    async def write(vector_id: str, *, anew: bool) -> None:
        async with database.tenant(TenantId(SHOP)) as connection:
            if anew:
                await collections.delete_collection(connection, short)
                await collections.create_collection(connection, short, 3)
            await collections.upsert_vectors(connection, short, [StoredVector(vector_id, np.array((0, 7, 0), "<f4").tobytes())])

    await write("theirs", anew=False)

    async def finds(*expected: str) -> bool:
        """Whether one door finds these; asked twice in a row, the doors may answer before and after the news."""
        request = pb.SearchVectorsRequest(collection=name, vector=np.array((0, 1, 0), "<f4").tobytes())
        reply = await door.call("VectorService/SearchVectors", request, pb.SearchVectorsResponse)
        return [match.id for match in reply.matches] == list(expected)

    await eventually(partial(finds, "theirs", "y", "z", "x"))
    assert await found(door, name, (0, 1, 0), k=1) == [("theirs", 7.0)]
    await write("alone", anew=True)
    await eventually(partial(finds, "alone"))
    assert await found(door, name, (0, 1, 0)) == [("alone", 7.0)]


async def test_first_searches_at_once_all_see_everything(door: Door, database: Database) -> None:
    """Searches that arrive together at a collection that is not in memory yet all wait for the whole of it."""
    name = new_name()
    short = name.removeprefix("collections/")
    many = [StoredVector(f"v{number}", np.array((number, 1), "<f4").tobytes()) for number in range(4500)]
    async with database.tenant(TenantId(SHOP)) as connection:
        await collections.create_collection(connection, short, 2)
        await collections.upsert_vectors(connection, short, many)
    results = await asyncio.gather(*(found(door, name, (1, 0), k=1) for _ in range(8)))
    assert results == [[("v4499", 4499.0)]] * 8


async def test_texts_find_their_vectors(door: Door) -> None:
    """In a collection of the encoder's dimension a text finds the vector of its meaning."""
    texts = ["a barn with fairy lights", "three tiers of lemon cake", "a string quartet"]
    reply = await door.call("EmbeddingService/EmbedTexts", embedding.EmbedTextsRequest(texts=texts), embedding.EmbedTextsResponse)
    name = new_name()
    sent = [pb.Vector(id=text[:6], vector=one.vector) for text, one in zip(texts, reply.embeddings, strict=True)]
    await door.call("VectorService/UpsertVectors", pb.UpsertVectorsRequest(collection=name, vectors=sent), pb.UpsertVectorsResponse)
    response = await door.rest("POST", f"/v1/{name}:searchVectors", json={"text": "live music", "k": 1})
    assert [one["id"] for one in response.json()["matches"]] == ["a stri"]
