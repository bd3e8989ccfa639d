"""Wrong requests at both doors of a whole server: the same code, reason, field and words, and the server goes on."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
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

from aisle.v1 import embedding_service_pb2 as embedding
from aisle.v1 import event_service_pb2 as events
from aisle.v1 import item_service_pb2 as items
from aisle.v1 import personalization_service_pb2 as personalization
from aisle.v1 import recommendation_service_pb2 as pb
from aisle.v1 import vector_service_pb2 as vectors
from server.store import Database
from tests.fixtures_server import SHOP, Door, new_key

_NAN = float("nan")
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
