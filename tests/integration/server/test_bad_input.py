"""Wrong requests at both doors of a whole server: the same code, reason, field and words, and the server goes on."""

from __future__ import annotations

import uuid
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from numpy.typing import NDArray

from aisle.v1 import embedding_service_pb2 as embedding
from aisle.v1 import event_service_pb2 as events
from aisle.v1 import item_service_pb2 as items
from aisle.v1 import personalization_service_pb2 as personalization
from aisle.v1 import recommendation_service_pb2 as pb
from aisle.v1 import vector_service_pb2 as vectors
from server.settings import Settings
from server.store import Database
from tests.eventually import eventually
from tests.fixtures_server import SHOP, Door, new_key

_NAN = float("nan")
_RUNTIMES_AGREE = 1e-3
"""Triton and the local runtime may answer one after the other; so near their vectors are."""
_MEGABYTE = "barn " * 200_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a door said no with."""

    code: str
    message: str
    reason: str
    metadata: Mapping[str, str]
    fields: tuple[str, ...] = ()
    """Of `BadRequest`."""


@dataclass(frozen=True, slots=True)
class Case:
    """A wrong request, and how it must be refused."""

    name: str
    method: str
    request: Message
    path: str
    """Verb and path; empty where HTTP has no way to say it."""
    code: str
    reason: str
    field: str = ""
    says: str = ""
    """Part of the message."""
    inner: str = ""
    """Field of the request that is the body; empty: all of it."""
    drop: tuple[str, ...] = ()
    """JSON names that the path carries."""


def _floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def _mask(*paths: str) -> FieldMask:
    return FieldMask(paths=paths)


def _item(**fields: Any) -> items.Item:
    return items.Item(**{"title": "A barn", **fields})


def _field(name: str, method: str, request: Message, path: str, wrong: str, says: str = "", **rest: Any) -> Case:
    """A case of one wrong field."""
    return Case(name, method, request, path, "INVALID_ARGUMENT", "INVALID_FIELD", wrong, says, **rest)


_RECOMMEND, _RECOMMENDED = "RecommendationService/RecommendItems", "POST /v1/users/a:recommendItems"
_RANK, _RANKED = "RecommendationService/RankItems", "POST /v1/users/a:rankItems"
_EMBED, _EMBEDDED = "EmbeddingService/EmbedTexts", "POST /v1/embeddings:embedTexts"
_CREATE, _CREATED = "ItemService/CreateItem", "POST /v1/items?itemId=new"
_UPSERT, _UPSERTED = "ItemService/BatchUpsertItems", "POST /v1/items:batchUpsert"
_INGEST, _INGESTED = "EventService/IngestEvents", "POST /v1/events:ingest"
_PUT, _PUTTED = "VectorService/UpsertVectors", "POST /v1/collections/three:upsertVectors"
_SEARCH, _SEARCHED = "VectorService/SearchVectors", "POST /v1/collections/three:searchVectors"
_GENERATE, _GENERATED = "PersonalizationService/GeneratePersonalization", "POST /v1/personalization:generate"
_PROFILE, _PROFILED = "PersonalizationService/UpdateUserProfile", "PATCH /v1/users/a/profile"


def _recommend(**fields: Any) -> pb.RecommendItemsRequest:
    return pb.RecommendItemsRequest(user="users/a", **fields)


def _create(**fields: Any) -> items.CreateItemRequest:
    return items.CreateItemRequest(item_id="new", item=_item(**fields))


def _put(*given: bytes, **fields: Any) -> vectors.UpsertVectorsRequest:
    sent = [vectors.Vector(id=f"v{number}", vector=content) for number, content in enumerate(given)]
    return vectors.UpsertVectorsRequest(**{"collection": "collections/three", "vectors": sent, **fields})


def _search(**fields: Any) -> vectors.SearchVectorsRequest:
    return vectors.SearchVectorsRequest(**{"collection": "collections/three", **fields})


def _profile(mask: FieldMask | None = None, **fields: Any) -> personalization.UpdateUserProfileRequest:
    profile = personalization.UserProfile(name="users/a/profile", **fields)
    return personalization.UpdateUserProfileRequest(profile=profile, update_mask=mask)


RECOMMENDATION = [
    _field("list of 501", _RECOMMEND, _recommend(max_results=501), _RECOMMENDED, "max_results", drop=("user",)),
    _field("negative count", _RECOMMEND, _recommend(max_results=-1), _RECOMMENDED, "max_results", drop=("user",)),
    _field("NaN budget", _RECOMMEND, _recommend(context=pb.Context(budget=_NAN)), _RECOMMENDED, "context.budget", drop=("user",)),
    _field("foreign token", _RECOMMEND, _recommend(consistency_token="x"), _RECOMMENDED, "consistency_token", drop=("user",)),
    Case(
        "filter",
        _RECOMMEND,
        _recommend(filter="price <"),
        _RECOMMENDED,
        "INVALID_ARGUMENT",
        "FILTER_SYNTAX",
        "filter",
        "at position 7",
        drop=("user",),
    ),
    _field("long filter", _RECOMMEND, _recommend(filter="a" * 5000), _RECOMMENDED, "filter", drop=("user",)),
    _field("no user", _RECOMMEND, pb.RecommendItemsRequest(), "", "user"),
    _field("user with a slash", _RECOMMEND, pb.RecommendItemsRequest(user="users/a/b"), "", "user"),
    _field(
        "10,000 items", _RANK, pb.RankItemsRequest(user="users/a", items=["items/x"] * 10_000), _RANKED, "items", "1000", drop=("user",)
    ),
    _field("no items", _RANK, pb.RankItemsRequest(user="users/a"), _RANKED, "items", drop=("user",)),
    _field("no item name", _RANK, pb.RankItemsRequest(user="users/a", items=["items/x", "x"]), _RANKED, "items[1]", drop=("user",)),
    Case(
        "similar to nothing",
        "RecommendationService/ListSimilarItems",
        pb.ListSimilarItemsRequest(item="items/none"),
        "GET /v1/items/none:similar",
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
        says="items/none",
    ),
    Case(
        "unknown decision",
        "RecommendationService/GetDecision",
        pb.GetDecisionRequest(name=f"decisions/{'0' * 32}"),
        f"GET /v1/decisions/{'0' * 32}",
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
        says="decisions/",
    ),
]

TEXTS = [
    _field("no texts", _EMBED, embedding.EmbedTextsRequest(), _EMBEDDED, "texts"),
    _field("1,025 texts", _EMBED, embedding.EmbedTextsRequest(texts=["a"] * 1025), _EMBEDDED, "texts", "1024"),
    _field("1 MB uncut", _EMBED, embedding.EmbedTextsRequest(texts=["a", _MEGABYTE], truncate=False), _EMBEDDED, "texts[1]", "tokens"),
    _field("other model", _EMBED, embedding.EmbedTextsRequest(texts=["a"], model="bert"), _EMBEDDED, "model"),
    _field(
        "vector of a foreign token",
        "EmbeddingService/EmbedUser",
        embedding.EmbedUserRequest(user="users/a", consistency_token="x"),
        "GET /v1/users/a:embed?consistencyToken=x",
        "consistency_token",
    ),
]

ITEMS = [
    _field("1 MB title", _CREATE, _create(title=_MEGABYTE), _CREATED, "item.title", "1000", inner="item"),
    _field("blank title", _CREATE, _create(title=" "), _CREATED, "item.title", "required", inner="item"),
    _field("NUL in a title", _CREATE, _create(title="a\0b"), _CREATED, "item.title", "U+0000", inner="item"),
    _field("NUL in attributes", _CREATE, _create(attributes={"a": ["\0"]}), _CREATED, "item.attributes", "U+0000", inner="item"),
    _field("NaN price", _CREATE, _create(price=_NAN), _CREATED, "item.price", inner="item"),
    _field("negative price", _CREATE, _create(price=-1), _CREATED, "item.price", inner="item"),
    _field("currency", _CREATE, _create(currency="euro"), _CREATED, "item.currency", inner="item"),
    _field(
        "available backwards",
        _CREATE,
        _create(available_from=Timestamp(seconds=100), available_until=Timestamp(seconds=100)),
        _CREATED,
        "item.available_until",
        "after available_from",
        inner="item",
    ),
    _field("no item", _CREATE, items.CreateItemRequest(item_id="new"), "", "item"),
    _field("no id", _CREATE, items.CreateItemRequest(item=_item()), "POST /v1/items", "item_id", inner="item"),
    Case(
        "unknown item",
        "ItemService/GetItem",
        items.GetItemRequest(name="items/none"),
        "GET /v1/items/none",
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
        says="items/none",
    ),
    _field(
        "field of 1 MB in a mask",
        "ItemService/UpdateItem",
        items.UpdateItemRequest(item=_item(name="items/none"), update_mask=_mask("\n" * 1_000_000)),
        "",
        "update_mask",
        "…",
    ),
    Case(
        "update of nothing",
        "ItemService/UpdateItem",
        items.UpdateItemRequest(item=_item(name="items/none")),
        "PATCH /v1/items/none",
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
        inner="item",
        drop=("name",),
    ),
    Case(
        "deletion of nothing",
        "ItemService/DeleteItem",
        items.DeleteItemRequest(name="items/none"),
        "DELETE /v1/items/none",
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
    ),
    _field(
        "unknown field in a mask",
        "ItemService/UpdateItem",
        items.UpdateItemRequest(item=_item(name="items/none"), update_mask=_mask("title", "colour")),
        "PATCH /v1/items/none?updateMask=title,colour",
        "update_mask",
        "colour",
        inner="item",
        drop=("name",),
    ),
    _field("negative page", "ItemService/ListItems", items.ListItemsRequest(page_size=-1), "GET /v1/items?pageSize=-1", "page_size"),
    _field("page token", "ItemService/ListItems", items.ListItemsRequest(page_token="x"), "GET /v1/items?pageToken=x", "page_token"),
    _field("no items to write", _UPSERT, items.BatchUpsertItemsRequest(), _UPSERTED, "items"),
    _field("1,001 items", _UPSERT, items.BatchUpsertItemsRequest(items=[_item(name="items/a")] * 1001), _UPSERTED, "items", "1000"),
    _field(
        "a nameless item",
        _UPSERT,
        items.BatchUpsertItemsRequest(items=[_item(name="items/a"), _item()]),
        _UPSERTED,
        "items[1].name",
        "required",
    ),
    _field(
        "an untitled item", _UPSERT, items.BatchUpsertItemsRequest(items=[_item(name="items/a", title="")]), _UPSERTED, "items[0].title"
    ),
]

EVENTS = [
    _field("no events", _INGEST, events.IngestEventsRequest(), _INGESTED, "events"),
    _field("1,001 events", _INGEST, events.IngestEventsRequest(events=[events.Event()] * 1001), _INGESTED, "events", "1000"),
    _field(
        "patterns of a foreign token",
        "EventService/GetBehaviorPatterns",
        events.GetBehaviorPatternsRequest(user="users/a", consistency_token="x"),
        "GET /v1/users/a/behaviorPatterns?consistencyToken=x",
        "consistency_token",
    ),
]

VECTORS = [
    _field("five bytes", _PUT, _put(b"12345"), _PUTTED, "vectors[0].vector", "fours", drop=("collection",)),
    _field("NaN in a vector", _PUT, _put(_floats(1, 2, 3), _floats(1, _NAN, 3)), _PUTTED, "vectors[1].vector", "NaN", drop=("collection",)),
    _field("two lengths", _PUT, _put(_floats(1, 2, 3), _floats(1, 2)), _PUTTED, "vectors[1].vector", "2 floats", drop=("collection",)),
    _field("other length", _PUT, _put(_floats(1, 2)), _PUTTED, "vectors[0].vector", "2 floats", drop=("collection",)),
    _field("empty vector", _PUT, _put(b""), _PUTTED, "vectors[0].vector", drop=("collection",)),
    _field("no vectors", _PUT, _put(), _PUTTED, "vectors", drop=("collection",)),
    _field("bad name", _PUT, _put(_floats(1), collection="collections/A_b"), "", "collection"),
    _field("neither vector nor text", _SEARCH, _search(), _SEARCHED, "query", drop=("collection",)),
    _field("query of other length", _SEARCH, _search(vector=_floats(1, 2)), _SEARCHED, "vector", "2 floats", drop=("collection",)),
    _field("infinite query", _SEARCH, _search(vector=_floats(1, np.inf, 2)), _SEARCHED, "vector", "position 1", drop=("collection",)),
    _field("text in three dimensions", _SEARCH, _search(text="a barn"), _SEARCHED, "text", "384", drop=("collection",)),
    _field("1,001 neighbours", _SEARCH, _search(vector=_floats(1, 2, 3), k=1001), _SEARCHED, "k", drop=("collection",)),
    Case(
        "filter of vectors",
        _SEARCH,
        _search(vector=_floats(1, 2, 3), filter="attributes.a = = 1"),
        _SEARCHED,
        "INVALID_ARGUMENT",
        "FILTER_SYNTAX",
        "filter",
        "at position 15",
        drop=("collection",),
    ),
    Case(
        "search of nothing",
        _SEARCH,
        _search(collection="collections/none", vector=_floats(1)),
        "POST /v1/collections/none:searchVectors",
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
        drop=("collection",),
    ),
    Case(
        "deletion from nothing",
        "VectorService/DeleteVectors",
        vectors.DeleteVectorsRequest(collection="collections/none", ids=["a"]),
        "POST /v1/collections/none:deleteVectors",
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
        drop=("collection",),
    ),
    Case(
        "deletion of no collection",
        "VectorService/DeleteCollection",
        vectors.DeleteCollectionRequest(name="collections/none"),
        "DELETE /v1/collections/none",
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
    ),
]

PAGES = [
    _field("no user on a page", _GENERATE, personalization.GeneratePersonalizationRequest(), _GENERATED, "user_id"),
    _field(
        "unknown content type",
        _GENERATE,
        personalization.GeneratePersonalizationRequest(user_id="a", content_types=["popup"]),
        _GENERATED,
        "content_types",
        "popup",
    ),
    _field(
        "content type of 1 MB",
        _GENERATE,
        personalization.GeneratePersonalizationRequest(user_id="a", content_types=["é" * 500_000]),
        _GENERATED,
        "content_types",
        "…",
    ),
    _field(
        "unknown depth",
        _GENERATE,
        personalization.GeneratePersonalizationRequest(user_id="a", personalization_depth="deep"),
        _GENERATED,
        "personalization_depth",
    ),
    Case(
        "unknown profile",
        "PersonalizationService/GetUserProfile",
        personalization.GetUserProfileRequest(name="users/none/profile"),
        "GET /v1/users/none/profile",
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
        says="users/none/profile",
    ),
    Case(
        "deletion of no profile",
        "PersonalizationService/DeleteUserProfile",
        personalization.DeleteUserProfileRequest(user_id="none"),
        "DELETE /api/ai/personalization/user-profile/none",
        "NOT_FOUND",
        "RESOURCE_NOT_FOUND",
    ),
    _field("profile of nobody", "PersonalizationService/GetUserProfile", personalization.GetUserProfileRequest(), "", "name"),
    _field(
        "preference of 1.5",
        _PROFILE,
        _profile(preference_scores={"venue": 1.5}),
        _PROFILED,
        "profile.preference_scores['venue']",
        inner="profile",
        drop=("name",),
    ),
    _field("etag of no profile", _PROFILE, _profile(etag="x"), _PROFILED, "profile.etag", inner="profile", drop=("name",)),
    _field(
        "NUL in traits",
        _PROFILE,
        _profile(traits={"style": "\0"}),
        _PROFILED,
        "profile.traits",
        "U+0000",
        inner="profile",
        drop=("name",),
    ),
]

CASES = [*RECOMMENDATION, *TEXTS, *ITEMS, *EVENTS, *VECTORS, *PAGES]


async def by_grpc(door: Door, method: str, request: Message, **options: Any) -> Refusal:
    """Returns how the gRPC door refuses a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.call(method, request, Empty, **options)
    return _refusal_of(caught.value)


def _refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    trailers = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailers["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        for kind in (info, bad):
            if detail.Is(kind.DESCRIPTOR):
                detail.Unpack(kind)
    assert info.domain == "aisle.dev"
    assert status.message == error.details()
    fields = tuple(violation.field for violation in bad.field_violations)
    return Refusal(error.code().name, status.message, info.reason, dict(info.metadata), fields)


def by_rest(response: httpx.Response) -> Refusal:
    """Returns how the HTTP door refused a request."""
    body = response.json()
    details = {detail["@type"].rpartition(".")[2]: detail for detail in body["details"]}
    info = details["ErrorInfo"]
    fields = tuple(violation["field"] for violation in details.get("BadRequest", {}).get("fieldViolations", []))
    code = next(code.name for code in grpc.StatusCode if code.value[0] == body["code"])
    return Refusal(code, body["message"], info["reason"], info.get("metadata", {}), fields)


HTTP_STATUS = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "ABORTED": 409, "UNAUTHENTICATED": 401}


@pytest.fixture(scope="module")
async def ready(door: Door) -> Door:
    """The server with a collection `three` of three dimensions."""
    await door.call(_PUT, _put(_floats(1, 0, 0), _floats(0, 1, 0)), vectors.UpsertVectorsResponse)
    return door


async def still_answers(door: Door) -> None:
    """Both doors give a list."""
    reply = await door.call(_RECOMMEND, _recommend(max_results=1), pb.RecommendItemsResponse)
    assert len(reply.items) == 1
    assert (await door.rest("POST", "/v1/users/a:recommendItems", json={"maxResults": 1})).status_code == 200


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
async def test_both_doors_refuse_alike(ready: Door, case: Case) -> None:
    """A wrong request gets its code and reason, names its field, reads the same by gRPC and REST, and leaves the server well."""
    said = await by_grpc(ready, case.method, case.request)
    assert (said.code, said.reason) == (case.code, case.reason), said
    assert said.fields == ((case.field,) if case.field else ()), said
    assert said.metadata.get("field", "") == case.field
    assert case.says in said.message
    if case.path:
        verb, _, path = case.path.partition(" ")
        sent = getattr(case.request, case.inner) if case.inner else case.request
        body = {name: value for name, value in MessageToDict(sent).items() if name not in case.drop}
        response = await (ready.rest(verb, path) if verb in {"GET", "DELETE"} else ready.rest(verb, path, json=body))
        assert response.status_code == HTTP_STATUS[case.code]
        assert by_rest(response) == said
    await still_answers(ready)


async def test_keys_open_what_they_were_made_for(door: Door, database: Database) -> None:
    """An unknown key, one without the scope, one of no known form, and none behind a proxy are refused alike at both doors."""
    narrow = await new_key(database, SHOP, "embeddings", "events")
    request, path = _recommend(), "/v1/users/a:recommendItems"
    for key, code, status in (
        ("aisle_shop_" + "x" * 40, "UNAUTHENTICATED", 401),
        ("x", "UNAUTHENTICATED", 401),
        (narrow, "PERMISSION_DENIED", 403),
    ):
        said = await by_grpc(door, _RECOMMEND, request, key=key)
        response = await door.rest("POST", path, key=key, json={})
        assert (said.code, said.reason, response.status_code) == (code, code, status)
        assert by_rest(response) == said
    assert said.metadata == {"scope": "recommend"}
    assert (await door.rest("POST", path, key="", headers={"authorization": "Basic eDp5"}, json={})).status_code == 401
    assert (await door.rest("POST", path, key="", headers={"x-forwarded-for": "192.0.2.1"}, json={})).status_code == 401
    assert (await door.rest("POST", path, key="", headers={"x-api-key": door.key}, json={})).status_code == 200
    await door.call(_EMBED, embedding.EmbedTextsRequest(texts=["a"]), embedding.EmbedTextsResponse, key=narrow)


async def test_writers_that_meet_are_told(door: Door) -> None:
    """Creating what exists, and writing or deleting with an old etag, is refused alike at both doors; the newest etag goes through."""
    item_id = f"met-{uuid.uuid4().hex}"
    created = await door.call("ItemService/CreateItem", items.CreateItemRequest(item_id=item_id, item=_item()), items.Item)
    again = await by_grpc(door, _CREATE, items.CreateItemRequest(item_id=item_id, item=_item()))
    assert (again.code, again.reason) == ("ALREADY_EXISTS", "RESOURCE_EXISTS")
    assert by_rest(await door.rest("POST", f"/v1/items?itemId={item_id}", json={"title": "A barn"})) == again

    changed = await door.rest("PATCH", f"/v1/items/{item_id}?updateMask=price", json={"price": 5, "etag": created.etag})
    assert changed.json()["price"] == 5
    stale = items.Item(name=created.name, price=6, etag=created.etag)
    late = await by_grpc(door, "ItemService/UpdateItem", items.UpdateItemRequest(item=stale, update_mask=_mask("price")))
    assert (late.code, late.reason) == ("ABORTED", "ABORTED")
    response = await door.rest("PATCH", f"/v1/items/{item_id}?updateMask=price", json={"price": 6, "etag": created.etag})
    assert (response.status_code, by_rest(response)) == (409, late)
    assert (await door.rest("DELETE", f"/v1/items/{item_id}", params={"etag": created.etag})).status_code == 409
    assert (await door.rest("GET", f"/v1/items/{item_id}")).json()["price"] == 5
    assert (await door.rest("DELETE", f"/v1/items/{item_id}", params={"etag": changed.json()["etag"]})).status_code == 200


async def test_bad_events_are_listed_and_good_ones_taken(door: Door) -> None:
    """Each event that cannot be is listed with index, reason and field, alike at both doors; the rest count, each id once."""
    user = f"users/{uuid.uuid4().hex}"
    good = events.Event(event_id=uuid.uuid4().hex, user=user, item="items/a", event_type="view")
    far = Timestamp()
    far.FromDatetime(datetime.now(UTC) + timedelta(hours=25))
    wrong: dict[str, events.Event] = {
        "occur_time: is more than 24 hours ahead": _event(user, occur_time=far),
        "occur_time: is before 1970": _event(user, occur_time=Timestamp(seconds=-1)),
        "user: or anonymous_id": events.Event(event_type="view"),
        "user: must be `users/ID`": _event("ann"),
        "item: must be `items/ID`": _event(user, item="users/ann"),
        "event_type: ": _event(user, event_type="Clicked!"),
        "event_id: ": _event(user, event_id="x" * 129),
        "session_id: ": _event(user, session_id="a\0b"),
        "value: ": _event(user, value=_NAN),
        "properties: must be at most": _event(user, properties={"text": "x" * 17_000}),
        "properties: holds the character": _event(user, properties={"a": {"b\0": 1}}),
    }
    request = events.IngestEventsRequest(events=[good, *wrong.values(), good])
    reply = await door.call(_INGEST, request, events.IngestEventsResponse)
    assert reply.accepted_count == 2
    assert reply.consistency_token
    for index, (words, rejection) in enumerate(zip(wrong, reply.rejected, strict=True), start=1):
        assert (rejection.index, rejection.reason) == (index, "INVALID_FIELD")
        assert rejection.message.startswith(words), rejection.message

    response = await door.rest("POST", "/v1/events:ingest", json=MessageToDict(request))
    theirs = [(one["index"], one["reason"], one["message"].split(", 20")[0]) for one in response.json()["rejected"]]
    assert theirs == [(one.index, one.reason, one.message.split(", 20")[0]) for one in reply.rejected]

    patterns = await door.rest("GET", f"/v1/{user}/behaviorPatterns", headers={"x-aisle-consistency-token": reply.consistency_token})
    assert patterns.json()["consistent"]
    assert patterns.json()["eventCount"] == 1

    async def counted_once() -> bool:  # counters come with the worker, not with the token
        return (await door.rest("GET", f"/v1/{user}/behaviorPatterns")).json().get("eventTypeCounts") == {"view": "1"}

    await eventually(counted_once)
    # JSON has no way to say these.
    beyond = [_event(user, occur_time=Timestamp(seconds=10**12)), _event(user, properties={"a": [_NAN]})]
    nothing = await door.call(_INGEST, events.IngestEventsRequest(events=beyond), events.IngestEventsResponse)
    assert (nothing.accepted_count, nothing.consistency_token) == (0, "")
    assert [one.message.split(":")[0] for one in nothing.rejected] == ["occur_time", "properties"]


def _event(user: str, **fields: Any) -> events.Event:
    return events.Event(**{"user": user, "item": "items/a", "event_type": "view", **fields})


def _numbers(vector: bytes) -> NDArray[np.float32]:
    return np.frombuffer(vector, "<f4")


async def test_long_texts_are_cut_and_say_so(door: Door) -> None:
    """A text of 1 MB has the vector of its first 256 tokens at both doors, and is marked; a batch changes no vector."""
    request = embedding.EmbedTextsRequest(texts=[_MEGABYTE, "", "a barn by the sea"])
    reply = await door.call(_EMBED, request, embedding.EmbedTextsResponse)
    assert [one.truncated for one in reply.embeddings] == [True, False, False]
    assert reply.embeddings[0].token_count == 256
    alone = await door.call(_EMBED, embedding.EmbedTextsRequest(texts=["a barn by the sea"]), embedding.EmbedTextsResponse)
    np.testing.assert_allclose(_numbers(alone.embeddings[0].vector), _numbers(reply.embeddings[2].vector), atol=_RUNTIMES_AGREE)
    theirs = (await door.rest("POST", "/v1/embeddings:embedTexts", json={"texts": list(request.texts)})).json()
    for there, here in zip(theirs["embeddings"], reply.embeddings, strict=True):
        np.testing.assert_allclose(_numbers(b64decode(there["vector"])), _numbers(here.vector), atol=_RUNTIMES_AGREE)
    assert theirs["model"] == reply.model


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"maxResults": 3', "1"),
        (b'{"maxResults": 3,}', "column"),
        (b'{"maxResult": 3}', "maxResult"),
        (b'{"context": {"pages": 1}}', "context.pages"),
        (b'{"maxResults": "many"}', "maxResults"),
        (b'{"maxResults": 1e99}', "maxResults"),
        (b"[]", "object"),
        (b'{"filter": "\xff"}', "UTF-8"),
        (b'{"filter": "\\ud800"}', ""),
    ],
)
async def test_wrong_json_is_refused(door: Door, body: bytes, says: str) -> None:
    """A body that is not the request's JSON is 400 and says where, or what it does not know."""
    response = await door.rest("POST", "/v1/users/a:recommendItems", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    said = by_rest(response)
    assert said.code == "INVALID_ARGUMENT"
    assert says in said.message, said.message
    await still_answers(door)


async def test_wrong_http_is_refused(door: Door) -> None:
    """Unknown query fields and paths, wrong verbs and types, and bodies over the limit each get their own status and a reason."""
    limit = Settings().max_message_bytes
    for status, says, response in (
        (400, "maxResult", await door.rest("GET", "/v1/items/a:similar?maxResult=3")),
        (404, "/v9/nothing", await door.rest("GET", "/v9/nothing")),
        (405, "POST", await door.rest("GET", "/v1/users/a:recommendItems")),
        (
            415,
            "application/json",
            await door.rest("POST", "/v1/users/a:recommendItems", content=b"a", headers={"content-type": "text/csv"}),
        ),
        (413, str(limit), await door.rest("POST", "/v1/users/a:recommendItems", content=b" " * (limit + 1))),
        (400, "grpc-timeout", await door.rest("POST", "/v1/users/a:recommendItems", json={}, headers={"grpc-timeout": "soon"})),
        (504, "deadline", await door.rest("POST", "/v1/users/a:recommendItems", json={}, headers={"grpc-timeout": "0m"})),
    ):
        assert response.status_code == status, response.text
        assert says in by_rest(response).message
    await still_answers(door)


async def test_wrong_bytes_are_refused(door: Door) -> None:
    """Bytes that are no request, or hold a string that is not UTF-8, or are too many, are refused by gRPC, and the channel goes on."""
    call = door.channel.unary_unary("/aisle.v1.RecommendationService/RecommendItems")
    for body in (b"\xff\xff\xff", b"\x0a\x09users/a\xff\xfe", pb.RecommendItemsRequest(user="users/a").SerializeToString()[:-1]):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(body, timeout=20)
        said = _refusal_of(caught.value)
        assert (said.code, said.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
        assert "UTF-8" in said.message
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b" " * (Settings().max_message_bytes + 1), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.channel.unary_unary("/aisle.v1.RecommendationService/Nothing")(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await still_answers(door)
