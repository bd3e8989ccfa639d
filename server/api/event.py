"""EventService on the wire."""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson

from aisle.v1 import event_service_pb2 as pb
from server.api.wellknown import check_json, to_datetime, to_timestamp, user_id_of
from server.domain import Event, EventId, ItemId, UserId
from server.errors import InvalidFieldError
from server.interceptors.call import Call, CallError, Said
from server.interceptors.chain import Handler
from server.interceptors.status import status_of
from server.service.conversations import Conversations
from server.service.events import Behavior, Events

_INGEST = "/aisle.v1.EventService/IngestEvents"
_REQUEST_ID_CHARS = 128
_EVENT_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ID = re.compile(r"[^/\x00-\x1f]{1,256}")
_EVENT_ID = re.compile(r"[^\x00-\x1f]{1,128}")
_AHEAD = timedelta(hours=24)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_PROPERTIES_BYTES = 16 * 1024


def _resource_id(name: str, field: str, collection: str) -> str:
    prefix, _, identifier = name.partition("/")
    if prefix != collection or not _ID.fullmatch(identifier):
        raise InvalidFieldError(field, f"must be `{collection}/ID`, with an id of 1 to 256 characters and no slash")
    return identifier


def _occur_time(message: pb.Event, now: datetime) -> datetime:
    if not message.HasField("occur_time"):
        return now
    moment = to_datetime(message.occur_time, "occur_time")
    if moment > now + _AHEAD:
        raise InvalidFieldError("occur_time", f"is more than 24 hours ahead of the server's clock, {now.isoformat(timespec='seconds')}")
    if moment < _EARLIEST:
        raise InvalidFieldError("occur_time", "is before 1970; send the time in UTC")
    return moment


def event_from_proto(message: pb.Event, now: datetime) -> Event:
    """Returns the event that a caller sent.

    Raises:
        InvalidFieldError: A field is wrong; the message says which.
    """
    if not message.user and not message.anonymous_id:
        raise InvalidFieldError("user", "or anonymous_id is required")
    if message.anonymous_id and not _ID.fullmatch(message.anonymous_id):
        raise InvalidFieldError("anonymous_id", "must have 1 to 256 characters and no slash or control character")
    if not _EVENT_TYPE.fullmatch(message.event_type):
        raise InvalidFieldError("event_type", "must be lower-case letters, digits and underscores, at most 64, such as `click`")
    if message.event_id and not _EVENT_ID.fullmatch(message.event_id):
        raise InvalidFieldError("event_id", "must have at most 128 characters and no control character")
    if message.session_id and not _EVENT_ID.fullmatch(message.session_id):
        raise InvalidFieldError("session_id", "must have at most 128 characters and no control character")
    value = message.value if message.HasField("value") else 1.0
    if not math.isfinite(value):
        raise InvalidFieldError("value", "must be a finite number")
    properties = check_json(message.properties, "properties") if message.HasField("properties") else {}
    if properties and len(orjson.dumps(properties)) > _PROPERTIES_BYTES:
        raise InvalidFieldError("properties", "must be at most 16 KiB as JSON")
    return Event(
        event_id=EventId(message.event_id or uuid.uuid4().hex),
        user_id=UserId(_resource_id(message.user, "user", "users") if message.user else message.anonymous_id),
        item_id=ItemId(_resource_id(message.item, "item", "items")) if message.item else None,
        event_type=message.event_type,
        occur_time=_occur_time(message, now),
        value=value,
        session_id=message.session_id,
        anonymous_id=message.anonymous_id,
        properties=properties,
    )


def behavior_to_proto(user_id: UserId, behavior: Behavior) -> pb.BehaviorPatterns:
    """Returns the wire form of behaviour patterns."""
    patterns, sessions = behavior.patterns, behavior.patterns.sessions
    length = [(one.end_time - one.start_time).total_seconds() for one in sessions]
    message = pb.BehaviorPatterns(
        user=f"users/{user_id}",
        event_count=behavior.event_count,
        session_count=len(sessions),
        events_per_session=behavior.event_count / len(sessions) if sessions else 0.0,
        session_duration_s=sum(length) / len(length) if length else 0.0,
        top_categories=[pb.BehaviorPatterns.CategoryShare(category=top.category, share=top.share) for top in patterns.top_categories],
        event_type_counts=behavior.engagement,
        recency_days=_days(patterns.recency),
        intent_stage=pb.BehaviorPatterns.IntentStage.Value(patterns.intent.name),
        cluster=patterns.cluster.value,
        consistent=behavior.consistent,
        cadence_days=_days(patterns.cadence),
        concentration=patterns.concentration,
    )
    if behavior.first_time is not None and behavior.last_time is not None:
        message.first_event_time.CopyFrom(to_timestamp(behavior.first_time))
        message.last_event_time.CopyFrom(to_timestamp(behavior.last_time))
    return message


def _days(span: timedelta | None) -> float:
    return span / timedelta(days=1) if span else 0.0


class EventServicer:
    """Converts, calls, converts."""

    def __init__(self, events: Events, conversations: Conversations, *, batch_timeout_s: float) -> None:
        self._events = events
        self._conversations = conversations
        self._batch_timeout_s = batch_timeout_s

    async def IngestEvents(self, call: Call, request: pb.IngestEventsRequest) -> pb.IngestEventsResponse:  # noqa: N802
        """Takes in events."""
        now = datetime.now(UTC)
        accepted: list[Event] = []
        rejected: list[pb.IngestEventsResponse.Rejection] = []
        for index, message in enumerate(request.events):
            try:
                accepted.append(event_from_proto(message, now))
            except InvalidFieldError as error:
                rejected.append(pb.IngestEventsResponse.Rejection(index=index, reason=error.reason, message=error.message))
        token = await self._events.ingest(call.tenant_id, accepted) if accepted else ""
        return pb.IngestEventsResponse(accepted_count=len(accepted), rejected=rejected, consistency_token=token)

    async def StreamEvents(  # noqa: N802
        self, call: Call, requests: AsyncIterator[Said], unary: Handler
    ) -> AsyncGenerator[pb.StreamEventsResponse, None]:
        """Opens a stream. Each batch is an IngestEvents of the same caller, with the time of a call that names none."""

        async def answer(batch: Said) -> pb.StreamEventsResponse:
            if isinstance(batch, CallError):
                return pb.StreamEventsResponse(error=batch.status)
            assert isinstance(batch, pb.StreamEventsRequest)
            if len(batch.request_id) > _REQUEST_ID_CHARS:
                return pb.StreamEventsResponse(error=status_of(InvalidFieldError("request_id", "must have at most 128 characters")))
            one = replace(call, method=_INGEST, deadline=time.monotonic() + self._batch_timeout_s, response_metadata={})
            try:
                taken = await unary(one, pb.IngestEventsRequest(events=batch.events))
            except CallError as error:
                return pb.StreamEventsResponse(request_id=batch.request_id, error=error.status)
            assert isinstance(taken, pb.IngestEventsResponse)
            return pb.StreamEventsResponse(
                request_id=batch.request_id,
                accepted_count=taken.accepted_count,
                rejected=taken.rejected,
                consistency_token=taken.consistency_token,
            )

        return self._conversations.answers(requests, answer)

    async def GetBehaviorPatterns(self, call: Call, request: pb.GetBehaviorPatternsRequest) -> pb.BehaviorPatterns:  # noqa: N802
        """Returns what a user's history amounts to."""
        user_id = user_id_of(request.user)
        behavior = await self._events.behavior(call.tenant_id, user_id, token=request.consistency_token, deadline=call.deadline)
        return behavior_to_proto(user_id, behavior)
