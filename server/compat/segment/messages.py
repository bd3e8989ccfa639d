"""What Segment's clients send, and what it is here: an event, facts about a user, or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import AwareDatetime, ConfigDict, Field
from pydantic.alias_generators import to_camel

from aisle.v1 import event_service_pb2 as pb
from server.api.wellknown import to_struct
from server.compat.exchange import Body
from server.compat.names import event_type_of
from server.errors import InvalidFieldError

COMMERCE = {
    "product_viewed": "view",
    "product_clicked": "click",
    "product_added": "add_to_cart",
    "product_added_to_wishlist": "save",
    "order_completed": "purchase",
}
"""Events of Segment's e-commerce spec -> the event types that weigh as such here. Others keep their names."""

_ITEM_KEYS = ("item_id", "itemId", "product_id", "productId", "sku")
_VALUE_KEYS = ("value", "revenue", "total")

Id = Annotated[str, Field(max_length=256, pattern=r"^[^/\x00-\x1f]*$")]


class Message(Body):
    """One message. Its JSON is in lowerCamelCase; times are RFC 3339 with an offset."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True, strict=False, coerce_numbers_to_str=True)

    type: str = ""
    user_id: Id | None = None
    anonymous_id: Id | None = None
    previous_id: Id | None = None
    group_id: Id | None = None
    message_id: Annotated[str, Field(max_length=100)] | None = None
    event: Annotated[str, Field(max_length=256)] | None = None
    name: str | None = None
    category: str | None = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    timestamp: AwareDatetime | None = None
    original_timestamp: AwareDatetime | None = None
    sent_at: AwareDatetime | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a message states of a user."""

    user_id: str
    traits: Mapping[str, Any]
    locale: str = ""
    time_zone: str = ""


@dataclass(slots=True)
class Meant:
    """What a message comes to."""

    events: list[pb.Event] = field(default_factory=list)
    facts: Facts | None = None


def repaired_time(message: Message, sent_at: datetime | None, received_at: datetime) -> datetime:
    """Returns when it happened by the server's clock: the client's clock may be wrong, the span between its two readings is not.

    Source: Segment, "Spec: Common Fields", `timestamp = receivedAt - (sentAt - originalTimestamp)`.
    """
    happened = message.original_timestamp or message.timestamp
    sent = message.sent_at or sent_at
    if happened is None:
        return received_at
    if sent is None:
        return happened
    try:
        return received_at - (sent - happened)
    except OverflowError:
        return happened


def meant_by(message: Message, sent_at: datetime | None, received_at: datetime, default_id: str) -> Meant:
    """Returns what a message comes to.

    Args:
        message: As it came.
        sent_at: When its batch was sent, by the client's clock.
        received_at: By the server's clock.
        default_id: Event id of a message without `messageId`.

    Raises:
        InvalidFieldError: It names nobody, or lacks what its type needs.
    """
    user_id, anonymous_id = message.user_id or "", message.anonymous_id or ""
    if not user_id and not anonymous_id:
        raise InvalidFieldError("userId", "or anonymousId is required")
    at = Timestamp()
    at.FromDatetime(repaired_time(message, sent_at, received_at).astimezone(UTC))
    base = pb.Event(
        event_id=message.message_id or default_id,
        user=f"users/{user_id}" if user_id else "",
        anonymous_id=anonymous_id if anonymous_id != user_id else "",
        occur_time=at,
        session_id=_session(message),
    )
    match message.type:
        case "track":
            return Meant(list(_tracked(base, message)))
        case "page" | "screen":
            extra = {name: value for name, value in (("name", message.name), ("category", message.category)) if value}
            return Meant([_filled(base, message.type, {**(message.properties or {}), **extra})])
        case "identify":
            facts = Facts(user_id or anonymous_id, message.traits or {}, *_locale_and_zone(message))
            return Meant([_filled(base, "identify", {})] if user_id and anonymous_id else [], facts)
        case "group":
            if not message.group_id:
                raise InvalidFieldError("groupId", "is required")
            traits = {"group_id": message.group_id, **({"group": message.traits} if message.traits else {})}
            return Meant([_filled(base, "group", traits)], Facts(user_id or anonymous_id, traits))
        case "alias":
            if not user_id or not message.previous_id:
                raise InvalidFieldError("previousId", "and userId are required")
            base.anonymous_id = message.previous_id
            return Meant([_filled(base, "alias", {})] if message.previous_id != user_id else [])
    raise InvalidFieldError("type", f"is {message.type[:40]!r}; track, identify, page, screen, group and alias are known")


def event_type(name: str) -> str:
    """Returns the event type of an event's name, such as `add_to_cart` for "Product Added"; empty if no letter is in it."""
    words = event_type_of(name)
    return COMMERCE.get(words, words)


def _tracked(base: pb.Event, message: Message) -> Iterator[pb.Event]:
    """Yields one event, or one a product where a list of products came."""
    kind = event_type(message.event or "")
    if not kind:
        raise InvalidFieldError("event", "is required, with a letter or digit of ASCII in it")
    properties = message.properties or {}
    products = properties.get("products")
    if _item(properties) or not isinstance(products, list) or not products:
        yield _filled(base, kind, properties)
        return
    rest = {name: value for name, value in properties.items() if name != "products"}
    for place, product in enumerate(products):
        if isinstance(product, dict) and _item(product):
            one = _filled(base, kind, {**rest, **product})
            one.event_id = f"{base.event_id}:{place}"
            yield one


def _filled(base: pb.Event, kind: str, properties: Mapping[str, Any]) -> pb.Event:
    event = pb.Event()
    event.CopyFrom(base)
    event.event_type = kind
    item = _item(properties)
    event.item = f"items/{item}" if item else ""
    value = next((properties[key] for key in _VALUE_KEYS if _is_number(properties.get(key))), None)
    if value is not None:
        event.value = value
    if properties:
        event.properties.CopyFrom(to_struct(properties))
    return event


def _item(properties: Mapping[str, Any]) -> str:
    for key in _ITEM_KEYS:
        value = properties.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            return str(value)
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _session(message: Message) -> str:
    session = (message.context or {}).get("sessionId")
    return str(session)[:128] if isinstance(session, str | int) else ""


def _locale_and_zone(message: Message) -> tuple[str, str]:
    context = message.context or {}
    locale, zone = context.get("locale"), context.get("timezone")
    return (locale[:35] if isinstance(locale, str) else ""), (zone[:64] if isinstance(zone, str) else "")
