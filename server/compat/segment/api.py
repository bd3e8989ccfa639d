"""`/track`, `/identify`, `/page`, `/screen`, `/group`, `/alias` and `/batch`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from pydantic import AwareDatetime, Field, ValidationError

from aisle.v1 import event_service_pb2 as events_pb
from aisle.v1 import personalization_service_pb2 as profiles_pb
from server.api.wellknown import to_dict, to_struct
from server.compat.exchange import Body, Exchange, check_depth, field_path, json_reply, only
from server.compat.segment.messages import Facts, Meant, Message, meant_by
from server.errors import InvalidArgumentError, InvalidFieldError, NotFoundError
from server.gateway.replies import HttpError, Reply
from server.interceptors.call import CallError

PREFIX = "/compat/segment/v1"

MAX_REQUEST_BYTES = 500 * 1024
MAX_MESSAGE_BYTES = 32 * 1024
_EVENTS_AT_ONCE = 1000
_TRIES = 4
"""Of an update that meets other writers of the same profile."""

_SINGLE = {
    **{f"/{name}": name for name in ("track", "identify", "page", "screen", "group", "alias")},
    "/t": "track",
    "/i": "identify",
    "/p": "page",
    "/s": "screen",
    "/g": "group",
    "/a": "alias",
}
_OF_ONE = frozenset({code_pb2.INVALID_ARGUMENT, code_pb2.PERMISSION_DENIED, code_pb2.ABORTED})
"""Codes that refuse one message; others fail the request, so that its client sends it again."""

_BATCHES = frozenset({"/batch", "/b", "/import"})


class _Batch(Body):
    batch: list[dict[str, Any]]
    context: dict[str, Any] | None = None
    sent_at: Annotated[AwareDatetime | None, Field(strict=False)] = None


class SegmentApi:
    """Segment's tracking API. A write key is an Aisle key with the scopes `events` and, for traits, `profiles`."""

    async def identify(self, exchange: Exchange) -> None:
        """Makes the write key the calls' key: the user of HTTP Basic, or `writeKey` of the body.

        Raises:
            HttpError: The body is too large; 413.
        """
        if len(exchange.body) > MAX_REQUEST_BYTES:
            raise HttpError(413, InvalidArgumentError(f"the body is larger than {MAX_REQUEST_BYTES} bytes; send it in parts"))
        scheme, _, token = exchange.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                key = base64.b64decode(token, validate=True).decode().partition(":")[0]
            except (binascii.Error, UnicodeDecodeError):
                key = ""
            exchange.with_bearer(key or "none")
        elif not scheme and "x-api-key" not in exchange.headers:
            written = _object(exchange.body).get("writeKey")
            if isinstance(written, str) and written:
                exchange.with_bearer(written)

    async def answer(self, exchange: Exchange) -> Reply:
        """Takes messages in: 200 also where some are refused, which `rejected` lists.

        Raises:
            NotFoundError: Nothing is at the path.
            InvalidArgumentError: The body is no JSON object of the right kind.
        """
        received_at = datetime.now(UTC)
        kind = _SINGLE.get(exchange.path)
        if kind is None and exchange.path not in _BATCHES:
            raise NotFoundError(
                exchange.path[:100], f"nothing is at {exchange.path[:100]!r}; /batch and {', '.join(list(_SINGLE)[:6])} are"
            )
        only(exchange, "POST")
        content = _object(exchange.body)
        messages: Sequence[dict[str, Any]] = [{**content, "type": kind}]
        sent_at = None
        if kind is None:
            batch = _batch(content)
            sent_at = batch.sent_at
            messages = [{**one, "context": {**(batch.context or {}), **(one.get("context") or {})}} for one in batch.batch]
        intake = _Intake(exchange, messages)
        intake.read(sent_at, received_at)
        token = await intake.ingest()
        await intake.state()
        answer: dict[str, Any] = {"success": True}
        if token:
            answer["consistencyToken"] = token
        if intake.rejected:
            answer["rejected"] = sorted(intake.rejected, key=lambda one: one["index"])
        return json_reply(answer)

    def refusal(self, status: Status, http_status: int) -> Reply:
        """Returns an error in Segment's form."""
        code = {404: "not_found", 401: "unauthorized", 413: "too_large", 429: "rate_limited"}.get(http_status, "invalid_request")
        return json_reply({"success": False, "code": code if http_status < 500 else "unavailable", "message": status.message}, http_status)


class _Intake:
    """The messages of one request on their way in. Those refused are remembered with the reason."""

    def __init__(self, exchange: Exchange, messages: Sequence[dict[str, Any]]) -> None:
        self.rejected: list[dict[str, Any]] = []
        self._exchange = exchange
        self._messages = messages
        self._events: list[tuple[int, events_pb.Event]] = []
        self._facts: list[tuple[int, Facts]] = []

    def read(self, sent_at: datetime | None, received_at: datetime) -> None:
        """Sorts out what the messages come to."""
        request_id = self._exchange.call.metadata["x-request-id"]
        for index, content in enumerate(self._messages):
            try:
                meant = _meant(content, sent_at, received_at, f"{request_id}:{index}")
            except InvalidFieldError as error:
                self._refuse(index, error.reason, error.message)
                continue
            self._events += [(index, event) for event in meant.events]
            if meant.facts is not None:
                self._facts.append((index, meant.facts))

    async def ingest(self) -> str:
        """Takes in the events and returns the token of the last of them, or empty.

        Raises:
            CallError: Nothing, or not all, was taken in; what was counts once when it is sent again.
        """
        token = ""
        for start in range(0, len(self._events), _EVENTS_AT_ONCE):
            part = self._events[start : start + _EVENTS_AT_ONCE]
            request = events_pb.IngestEventsRequest(events=[event for _, event in part])
            reply = await self._exchange.ask("EventService/IngestEvents", request, events_pb.IngestEventsResponse)
            token = reply.consistency_token or token
            for one in reply.rejected:
                self._refuse(part[one.index][0], one.reason, one.message)
        return token

    async def state(self) -> None:
        """Writes what was stated of users.

        Raises:
            CallError: A part is down, or too much is asked of it.
        """
        for index, stated in self._facts:
            try:
                await _state(self._exchange, stated)
            except CallError as error:
                if error.status.code not in _OF_ONE:
                    raise
                self._refuse(index, code_pb2.Code.Name(error.status.code), error.status.message)

    def _refuse(self, index: int, reason: str, message: str) -> None:
        message_id = self._messages[index].get("messageId")
        self.rejected.append({"index": index, "messageId": message_id, "reason": reason, "message": message})


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidArgumentError(f"the body is malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    if not isinstance(content, dict):
        raise InvalidArgumentError("the body must be a JSON object")
    return content


def _batch(content: Mapping[str, Any]) -> _Batch:
    try:
        return _Batch.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise InvalidFieldError(field_path(first["loc"]), first["msg"]) from None


def _meant(content: Mapping[str, Any], sent_at: datetime | None, received_at: datetime, default_id: str) -> Meant:
    if len(orjson.dumps(content)) > MAX_MESSAGE_BYTES:
        raise InvalidFieldError("message", f"is larger than {MAX_MESSAGE_BYTES} bytes as JSON; send less")
    check_depth(content, "message")
    try:
        message = Message.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise InvalidFieldError(field_path(first["loc"]), first["msg"]) from None
    return meant_by(message, sent_at, received_at, default_id)


async def _state(exchange: Exchange, facts: Facts) -> None:
    """Adds traits to those that a user has; of one name the newer stays.

    Raises:
        CallError: The profile could not be read or written.
    """
    name = f"users/{facts.user_id}/profile"
    for left in reversed(range(_TRIES)):
        known = await _profile(exchange, name)
        traits = {**to_dict(known.traits), **facts.traits}
        profile = profiles_pb.UserProfile(name=name, etag=known.etag, traits=to_struct(traits))
        paths = ["traits"]
        for path, value in (("locale", facts.locale), ("time_zone", facts.time_zone)):
            if value:
                setattr(profile, path, value)
                paths.append(path)
        if not facts.traits and len(paths) == 1:
            return
        try:
            request = profiles_pb.UpdateUserProfileRequest(profile=profile, update_mask=FieldMask(paths=paths))
            await exchange.ask("PersonalizationService/UpdateUserProfile", request, profiles_pb.UserProfile)
        except CallError as error:
            if error.status.code != code_pb2.ABORTED or not left:
                raise
        else:
            return


async def _profile(exchange: Exchange, name: str) -> profiles_pb.UserProfile:
    """Returns what is known of a user; an empty profile of one who is new."""
    try:
        request = profiles_pb.GetUserProfileRequest(name=name)
        return await exchange.ask("PersonalizationService/GetUserProfile", request, profiles_pb.UserProfile)
    except CallError as error:
        if error.status.code != code_pb2.NOT_FOUND:
            raise
        return profiles_pb.UserProfile()
