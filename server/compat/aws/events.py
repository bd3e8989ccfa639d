"""PutEvents, PutItems and PutUsers."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

import orjson
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import Field

from aisle.v1 import event_service_pb2 as events_pb
from aisle.v1 import item_service_pb2 as items_pb
from aisle.v1 import personalization_service_pb2 as personalization_pb
from server.api.wellknown import to_struct
from server.compat.aws.runtime import Id, Name
from server.compat.exchange import Body, Exchange, check_depth, read_json
from server.compat.names import event_type_of, snake
from server.errors import InvalidFieldError
from server.gateway.replies import Reply

MAX_ITEMS = 1000
MAX_USERS = 100
MAX_EVENTS = 1000

_CATEGORY_COLUMNS = ("categories", "category_l1", "category_l2", "category_l3", "genres", "genre_l2", "genre_l3")
"""Columns of AWS's domain schemas that are categories here too, so that the text encoder and `categories:` filters see them."""
_TITLES = ("title", "name", "item_name", "product_name")
_DESCRIPTIONS = ("description", "product_description", "textual_description")
_EMPTY = 200, b"", ""

SessionId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\x00-\x1f]+$")]


class PutEvent(Body):
    """One event."""

    event_id: Annotated[str, Field(max_length=128)] = ""
    event_type: Annotated[str, Field(min_length=1, max_length=256)]
    event_value: float | None = None
    item_id: Id | None = None
    properties: Annotated[str, Field(max_length=1024)] = ""
    sent_at: Annotated[float, Field(ge=0, lt=253_402_300_800)]
    recommendation_id: Annotated[str, Field(max_length=40)] = ""
    impression: Annotated[list[Id], Field(max_length=25)] = Field(default_factory=list)
    metric_attribution: dict[str, Annotated[str, Field(max_length=1024)]] | None = None


class PutEvents(Body):
    """The request's body."""

    tracking_id: Name
    user_id: Id | None = None
    session_id: SessionId
    event_list: Annotated[list[PutEvent], Field(min_length=1, max_length=MAX_EVENTS)]


class PutItem(Body):
    """One item."""

    item_id: Id
    properties: Annotated[str, Field(max_length=32_000)] = ""


class PutItems(Body):
    """The request's body."""

    dataset_arn: Name
    items: Annotated[list[PutItem], Field(min_length=1, max_length=MAX_ITEMS)]


class PutUser(Body):
    """One user."""

    user_id: Id
    properties: Annotated[str, Field(max_length=24_000)] = ""


class PutUsers(Body):
    """The request's body."""

    dataset_arn: Name
    users: Annotated[list[PutUser], Field(min_length=1, max_length=MAX_USERS)]


async def put_events(exchange: Exchange) -> Reply:
    """Takes in events. One of a session without user is joined to the user that the session turns out to be of."""
    body = read_json(PutEvents, exchange.body)
    request = events_pb.IngestEventsRequest(events=[_event(body, index, one) for index, one in enumerate(body.event_list)])
    reply = await exchange.ask("EventService/IngestEvents", request, events_pb.IngestEventsResponse)
    if reply.rejected:
        first = reply.rejected[0]
        raise InvalidFieldError(f"eventList[{first.index}]", f"{first.message}; {reply.accepted_count} of the other events were taken in")
    # No AWS client reads it, and those who know that this is Aisle can pass it on to see the events at once.
    return Reply(*_EMPTY, headers={"x-aisle-consistency-token": reply.consistency_token})


def _event(body: PutEvents, index: int, one: PutEvent) -> events_pb.Event:
    kind = event_type_of(one.event_type)
    if not kind:
        raise InvalidFieldError(f"eventList[{index}].eventType", f"{one.event_type[:40]!r} holds no letter or digit of ASCII")
    properties = _properties(one.properties, f"eventList[{index}].properties")
    extra = {"recommendation_id": one.recommendation_id, "impression": one.impression, "metric_attribution": one.metric_attribution}
    properties |= {name: value for name, value in extra.items() if value}
    at = Timestamp()
    at.FromMilliseconds(round(one.sent_at * 1000))
    return events_pb.Event(
        event_id=one.event_id or _own_id(body, index, one),
        user=f"users/{body.user_id}" if body.user_id else "",
        anonymous_id=body.session_id,
        item=f"items/{one.item_id}" if one.item_id else "",
        event_type=kind,
        occur_time=at,
        value=one.event_value,
        session_id=body.session_id,
        properties=to_struct(properties) if properties else None,
    )


def _own_id(body: PutEvents, index: int, one: PutEvent) -> str:
    """Returns an id that a repeated request gives its event again: the SDKs repeat requests whose reply was lost."""
    what = [body.tracking_id, body.session_id, body.user_id, index, one.model_dump(mode="json")]
    return f"aws-{hashlib.sha256(orjson.dumps(what)).hexdigest()[:40]}"


async def put_items(exchange: Exchange) -> Reply:
    """Creates or replaces items."""
    body = read_json(PutItems, exchange.body)
    items = [_item(one, f"items[{index}].properties") for index, one in enumerate(body.items)]
    request = items_pb.BatchUpsertItemsRequest(items=items)
    await exchange.ask("ItemService/BatchUpsertItems", request, items_pb.BatchUpsertItemsResponse)
    return Reply(*_EMPTY)


def _item(one: PutItem, field: str) -> items_pb.Item:
    columns = {snake(name): _column(value) for name, value in _properties(one.properties, field).items() if value is not None}
    title = _taken(columns, _TITLES)
    description = _taken(columns, _DESCRIPTIONS)
    price = columns.pop("price", None)
    if price is not None and (isinstance(price, bool) or not isinstance(price, int | float)):
        raise InvalidFieldError(field, f"has the price {str(price)[:40]!r}; send a number")
    categories = [text for name in _CATEGORY_COLUMNS for text in _texts(columns.get(name))]
    columns.pop("categories", None)
    return items_pb.Item(
        name=f"items/{one.item_id}",
        title=(title or one.item_id)[:1000],
        description=description[:20_000],
        categories=list(dict.fromkeys(categories))[:64],
        price=price,
        currency=str(columns.pop("currency", "")),
        language=str(columns.pop("language", "")),
        attributes=to_struct(columns) if columns else None,
    )


async def put_users(exchange: Exchange) -> Reply:
    """Replaces the stated facts of users, making those who are new."""
    body = read_json(PutUsers, exchange.body)
    for index, one in enumerate(body.users):
        traits = {snake(name): _column(value) for name, value in _properties(one.properties, f"users[{index}].properties").items()}
        profile = personalization_pb.UserProfile(name=f"users/{one.user_id}/profile", traits=to_struct(traits))
        request = personalization_pb.UpdateUserProfileRequest(profile=profile, update_mask=FieldMask(paths=["traits"]))
        await exchange.ask("PersonalizationService/UpdateUserProfile", request, personalization_pb.UserProfile)
    return Reply(*_EMPTY)


def _properties(text: str, field: str) -> dict[str, Any]:
    """Returns the JSON object in a text.

    Raises:
        InvalidFieldError: It holds no JSON, or no object.
    """
    try:
        content = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise InvalidFieldError(field, f"must be a text that holds a JSON object: {error.msg}") from None
    if not isinstance(content, dict):
        raise InvalidFieldError(field, "must be a text that holds a JSON object")
    check_depth(content, field)
    return content


def _column(value: Any) -> Any:
    """Returns a column's value; a categorical one with several values separated by `|` becomes a list."""
    return [part.strip() for part in value.split("|") if part.strip()] if isinstance(value, str) and "|" in value else value


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one[:200] for one in values if isinstance(one, str) and one]


def _taken(columns: dict[str, Any], names: tuple[str, ...]) -> str:
    """Returns the first text among these columns and takes it out."""
    for name in names:
        value = columns.get(name)
        if isinstance(value, list):
            value = "|".join(map(str, value))
        if isinstance(value, str) and value.strip():
            del columns[name]
            return value
    return ""


OPERATIONS: Mapping[str, Callable[[Exchange], Awaitable[Reply]]] = {"/events": put_events, "/items": put_items, "/users": put_users}
"""Path -> operation."""
