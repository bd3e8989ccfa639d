"""The client: one method an RPC, plain ids in, the API's messages out."""

from __future__ import annotations

import asyncio
import sys
import uuid
from array import array
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from grpc import aio

from aisle.v1 import (
    embedding_service_pb2 as embedding,
)
from aisle.v1 import (
    embedding_service_pb2_grpc as embedding_grpc,
)
from aisle.v1 import (
    event_service_pb2 as event,
)
from aisle.v1 import (
    event_service_pb2_grpc as event_grpc,
)
from aisle.v1 import (
    item_service_pb2 as item,
)
from aisle.v1 import (
    item_service_pb2_grpc as item_grpc,
)
from aisle.v1 import (
    personalization_service_pb2 as personalization,
)
from aisle.v1 import (
    personalization_service_pb2_grpc as personalization_grpc,
)
from aisle.v1 import (
    recommendation_service_pb2 as recommendation,
)
from aisle.v1 import (
    recommendation_service_pb2_grpc as recommendation_grpc,
)
from aisle.v1 import (
    vector_service_pb2 as vector,
)
from aisle.v1 import (
    vector_service_pb2_grpc as vector_grpc,
)
from aisle_client.errors import UnavailableError, typed_error
from aisle_client.retries import Backoff, call_with_retries

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text's vector: float32, unit length. `numpy.asarray(vector)` shares its memory."""

    vector: array[float]
    token_count: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class TextEmbeddings:
    """The vectors of some texts, in their order."""

    embeddings: tuple[Embedding, ...]
    model: str
    runtime: str
    """`triton` or `local`."""


@dataclass(frozen=True, slots=True)
class UserEmbedding:
    """A user's fused vector: float32."""

    vector: array[float]
    bundle: str
    history_length: int
    consistent: bool


def _floats(data: bytes) -> array[float]:
    """Returns little-endian float32 bytes as numbers."""
    numbers = array("f")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _bytes(numbers: Iterable[float]) -> bytes:
    """Returns numbers as little-endian float32 bytes. Reads any array that lists its values, numpy's included."""
    packed = array("f", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _named(collection: str, identifier: str) -> str:
    """Returns `collection/id`. Ids hold no slash, so a full name is recognised and kept."""
    return identifier if identifier.startswith(f"{collection}/") else f"{collection}/{identifier}"


class AisleClient:
    """A connection to Aisle. Safe to share among tasks of one event loop; open it once a process.

    Args:
        target: HOST:PORT.
        key: API key. Empty: none is sent, which a server on loopback may accept.
        timeout_s: Deadline of a call that names none, retries included.
        backoff: When failed calls are sent again.
        credentials: For TLS, such as `tls_credentials(ca="ca.pem")`. None: plain text.
        options: Channel arguments beyond ours, such as `[("grpc.max_receive_message_length", 16 << 20)]`.
    """

    def __init__(
        self,
        target: str,
        *,
        key: str = "",
        timeout_s: float = 10.0,
        backoff: Backoff = Backoff(),  # noqa: B008  # frozen
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._target = target
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._timeout_s = timeout_s
        self._backoff = backoff
        self._credentials = credentials
        # Retries are ours: gRPC's own would come on top and know nothing of RetryInfo.
        self._options = [("grpc.enable_retries", 0), ("grpc.keepalive_time_ms", 60_000), *options]

    async def __aenter__(self) -> Self:
        """Opens the channel. The connection itself is made with the first call."""
        if self._credentials:
            self._channel = aio.secure_channel(self._target, self._credentials, options=self._options)
        else:
            self._channel = aio.insecure_channel(self._target, options=self._options)
        self._recommendation = recommendation_grpc.RecommendationServiceStub(self._channel)
        self._personalization = personalization_grpc.PersonalizationServiceStub(self._channel)
        self._embedding = embedding_grpc.EmbeddingServiceStub(self._channel)
        self._item = item_grpc.ItemServiceStub(self._channel)
        self._event = event_grpc.EventServiceStub(self._channel)
        self._vector = vector_grpc.VectorServiceStub(self._channel)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the channel; calls still under way fail."""
        await self._channel.close()

    async def _call(
        self, method: aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, timeout_s: float | None
    ) -> _Response:
        return await call_with_retries(
            method,
            request,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            metadata=self._metadata,
            backoff=self._backoff,
        )

    # Every method below takes `timeout_s`, the deadline of this call in seconds, and raises `AisleError`.

    async def recommend_items(
        self,
        user_id: str,
        *,
        max_results: int = 0,
        context: recommendation.Context | None = None,
        filter: str = "",  # noqa: A002  # the API's name
        include_seen: bool = False,
        consistency_token: str = "",
        explain: bool = False,
        timeout_s: float | None = None,
    ) -> recommendation.RecommendItemsResponse:
        """Returns the items that the user is likeliest to want next, best first; 20 unless `max_results` says otherwise."""
        request = recommendation.RecommendItemsRequest(
            user=_named("users", user_id),
            max_results=max_results,
            context=context,
            filter=filter,
            include_seen=include_seen,
            consistency_token=consistency_token,
            explain=explain,
        )
        return await self._call(self._recommendation.RecommendItems, request, timeout_s)

    async def rank_items(
        self,
        user_id: str,
        item_ids: Iterable[str],
        *,
        context: recommendation.Context | None = None,
        consistency_token: str = "",
        explain: bool = False,
        timeout_s: float | None = None,
    ) -> recommendation.RankItemsResponse:
        """Returns the caller's items in the order that suits the user, unknown ones last."""
        request = recommendation.RankItemsRequest(
            user=_named("users", user_id),
            items=[_named("items", item_id) for item_id in item_ids],
            context=context,
            consistency_token=consistency_token,
            explain=explain,
        )
        return await self._call(self._recommendation.RankItems, request, timeout_s)

    async def list_similar_items(
        self,
        item_id: str,
        *,
        max_results: int = 0,
        filter: str = "",  # noqa: A002  # the API's name
        timeout_s: float | None = None,
    ) -> recommendation.ListSimilarItemsResponse:
        """Returns the items most like one, best first."""
        request = recommendation.ListSimilarItemsRequest(item=_named("items", item_id), max_results=max_results, filter=filter)
        return await self._call(self._recommendation.ListSimilarItems, request, timeout_s)

    async def get_decision(self, decision_id: str, *, timeout_s: float | None = None) -> recommendation.Decision:
        """Returns the record of a list, a moment after it was made."""
        request = recommendation.GetDecisionRequest(name=_named("decisions", decision_id))
        return await self._call(self._recommendation.GetDecision, request, timeout_s)

    async def generate_personalization(
        self, request: personalization.GeneratePersonalizationRequest, *, timeout_s: float | None = None
    ) -> personalization.GeneratePersonalizationResponse:
        """Returns a page's content for a user: hero, recommendations, calls to action."""
        return await self._call(self._personalization.GeneratePersonalization, request, timeout_s)

    async def watch_personalization(
        self,
        user_id: str,
        *,
        content_types: Iterable[str] = (),
        current_page: str = "",
        max_results: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncIterator[personalization.WatchPersonalizationResponse]:
        """Yields the user's page as it is now, and anew whenever more is known of the user. Not retried: watch again on `UnavailableError`.

        `timeout_s` bounds the whole watch; None: it lasts until the iteration ends.
        """
        request = personalization.WatchPersonalizationRequest(
            user=_named("users", user_id), content_types=content_types, current_page=current_page, max_results=max_results
        )
        states = self._personalization.WatchPersonalization(request, timeout=timeout_s, metadata=self._metadata)
        try:
            async for state in states:
                yield state
        except aio.AioRpcError as error:
            raise typed_error(error) from error
        finally:
            states.cancel()

    async def get_user_profile(
        self, user_id: str, *, consistency_token: str = "", timeout_s: float | None = None
    ) -> personalization.UserProfile:
        """Returns what is known of a user."""
        request = personalization.GetUserProfileRequest(name=f"{_named('users', user_id)}/profile", consistency_token=consistency_token)
        return await self._call(self._personalization.GetUserProfile, request, timeout_s)

    async def update_user_profile(
        self, profile: personalization.UserProfile, *, update_mask: Iterable[str] = (), timeout_s: float | None = None
    ) -> personalization.UserProfile:
        """Writes the masked fields of a profile, or all that are set, and returns the whole. `AbortedError` where its etag is old."""
        request = personalization.UpdateUserProfileRequest(profile=profile, update_mask=FieldMask(paths=update_mask))
        return await self._call(self._personalization.UpdateUserProfile, request, timeout_s)

    async def delete_user_profile(self, user_id: str, *, timeout_s: float | None = None) -> None:
        """Deletes what is known of a user."""
        request = personalization.DeleteUserProfileRequest(name=f"{_named('users', user_id)}/profile")
        await self._call(self._personalization.DeleteUserProfile, request, timeout_s)

    async def embed_texts(self, texts: Sequence[str], *, truncate: bool | None = None, timeout_s: float | None = None) -> TextEmbeddings:
        """Returns the texts' vectors in their order. Texts past the model's limit are cut, or refused if `truncate` is False."""
        reply = await self._call(self._embedding.EmbedTexts, embedding.EmbedTextsRequest(texts=texts, truncate=truncate), timeout_s)
        found = tuple(Embedding(_floats(one.vector), one.token_count, one.truncated) for one in reply.embeddings)
        return TextEmbeddings(found, reply.model, reply.runtime)

    async def embed_user(self, user_id: str, *, consistency_token: str = "", timeout_s: float | None = None) -> UserEmbedding:
        """Returns the user's fused vector."""
        request = embedding.EmbedUserRequest(user=_named("users", user_id), consistency_token=consistency_token)
        reply = await self._call(self._embedding.EmbedUser, request, timeout_s)
        return UserEmbedding(_floats(reply.vector), reply.bundle, reply.history_length, reply.consistent)

    async def get_item(self, item_id: str, *, timeout_s: float | None = None) -> item.Item:
        """Returns an item."""
        return await self._call(self._item.GetItem, item.GetItemRequest(name=_named("items", item_id)), timeout_s)

    async def list_items(self, *, page_size: int = 0, content_type: str = "", timeout_s: float | None = None) -> AsyncIterator[item.Item]:
        """Yields all items, page by page; `timeout_s` is for each page."""
        request = item.ListItemsRequest(page_size=page_size, content_type=content_type)
        while True:
            page = await self._call(self._item.ListItems, request, timeout_s)
            for one in page.items:
                yield one
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def create_item(self, item_id: str, new: item.Item, *, timeout_s: float | None = None) -> item.Item:
        """Creates an item and returns it."""
        return await self._call(self._item.CreateItem, item.CreateItemRequest(item=new, item_id=item_id), timeout_s)

    async def update_item(self, changed: item.Item, *, update_mask: Iterable[str] = (), timeout_s: float | None = None) -> item.Item:
        """Writes the masked fields of an item, or all that are set, and returns the whole. `AbortedError` where its etag is old."""
        request = item.UpdateItemRequest(item=changed, update_mask=FieldMask(paths=update_mask))
        return await self._call(self._item.UpdateItem, request, timeout_s)

    async def delete_item(self, item_id: str, *, etag: str = "", timeout_s: float | None = None) -> None:
        """Deletes an item."""
        await self._call(self._item.DeleteItem, item.DeleteItemRequest(name=_named("items", item_id), etag=etag), timeout_s)

    async def batch_upsert_items(self, items: Iterable[item.Item], *, timeout_s: float | None = None) -> item.BatchUpsertItemsResponse:
        """Creates or replaces 1 to 1000 items, all or none."""
        return await self._call(self._item.BatchUpsertItems, item.BatchUpsertItemsRequest(items=items), timeout_s)

    async def ingest_events(self, events: Iterable[event.Event], *, timeout_s: float | None = None) -> event.IngestEventsResponse:
        """Hands over 1 to 1000 events; once it returns they are safe. Events without an id get one, so a retry counts them once."""
        request = event.IngestEventsRequest(events=events)
        for one in request.events:
            one.event_id = one.event_id or str(uuid.uuid4())
        return await self._call(self._event.IngestEvents, request, timeout_s)

    async def stream_events(
        self, batches: AsyncIterable[Sequence[event.Event]], *, timeout_s: float | None = None
    ) -> AsyncGenerator[event.StreamEventsResponse, None]:
        """Hands over batches of 1 to 1000 events by one call and yields the answer to each, in their order; once it comes they are safe.

        `batches` is read as the server takes them, a few ahead of their answers. Events without an id are given one in place, so that a
        batch which is sent again counts once. An answer with `error` set does not acknowledge its batch; the stream goes on.
        Not retried: on `UnavailableError` send what was not answered by another stream. What `batches` raises ends the stream, and comes
        out here.

        `timeout_s` bounds the whole stream; None: it lasts until `batches` and their answers end, or the iteration does.
        """
        faults: list[Exception] = []

        async def requests() -> AsyncGenerator[event.StreamEventsRequest, None]:
            number = 0
            try:
                async for batch in batches:
                    number += 1
                    for one in batch:
                        one.event_id = one.event_id or str(uuid.uuid4())
                    yield event.StreamEventsRequest(events=batch, request_id=str(number))
            except Exception as fault:
                faults.append(fault)
                raise

        answers = self._event.StreamEvents(requests(), timeout=timeout_s, metadata=self._metadata)
        try:
            async for answer in answers:
                yield answer
        except aio.AioRpcError as error:
            # Where the server ends a call that is being written, gRPC may know the failure of the write alone.
            if error.code() is grpc.StatusCode.INTERNAL and "SendMessageOperation" in (error.debug_error_string() or ""):
                message = "the stream ended while a batch was sent; send what was not answered by another stream"
                raise UnavailableError(message, code=grpc.StatusCode.UNAVAILABLE) from error
            raise typed_error(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if faults and not (task and task.cancelling()):  # the channel cancels a call whose requests fail
                raise faults[0] from None
            raise
        finally:
            answers.cancel()

    async def track(
        self,
        user_id: str,
        event_type: str,
        item_id: str = "",
        *,
        occur_time: datetime | None = None,
        properties: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> str:
        """Hands over one event and returns the consistency token; a read that is given the token sees the event.

        Raises:
            ValueError: The event is not acceptable; the message names the field.
        """
        one = event.Event(user=_named("users", user_id), event_type=event_type, item=_named("items", item_id) if item_id else "")
        if occur_time:
            one.occur_time.FromDatetime(occur_time)
        if properties:
            one.properties.update(properties)
        reply = await self.ingest_events([one], timeout_s=timeout_s)
        if reply.rejected:
            raise ValueError(reply.rejected[0].message)
        return reply.consistency_token

    async def get_behavior_patterns(
        self, user_id: str, *, consistency_token: str = "", timeout_s: float | None = None
    ) -> event.BehaviorPatterns:
        """Returns what a user's history amounts to."""
        request = event.GetBehaviorPatternsRequest(user=_named("users", user_id), consistency_token=consistency_token)
        return await self._call(self._event.GetBehaviorPatterns, request, timeout_s)

    async def upsert_vectors(
        self,
        collection: str,
        vectors: Mapping[str, Iterable[float]],
        *,
        attributes: Mapping[str, Mapping[str, Any]] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Writes 1 to 1000 vectors by id, with attributes by id, and returns their number. The first call makes the collection."""
        request = vector.UpsertVectorsRequest(collection=_named("collections", collection))
        for identifier, numbers in vectors.items():
            one = request.vectors.add(id=identifier, vector=_bytes(numbers))
            if attributes and identifier in attributes:
                one.attributes.update(attributes[identifier])
        return (await self._call(self._vector.UpsertVectors, request, timeout_s)).upserted_count

    async def delete_vectors(self, collection: str, ids: Iterable[str], *, timeout_s: float | None = None) -> int:
        """Deletes vectors by id and returns how many there were."""
        request = vector.DeleteVectorsRequest(collection=_named("collections", collection), ids=ids)
        return (await self._call(self._vector.DeleteVectors, request, timeout_s)).deleted_count

    async def search_vectors(
        self,
        collection: str,
        query: str | Iterable[float],
        *,
        k: int = 0,
        filter: str = "",  # noqa: A002  # the API's name
        timeout_s: float | None = None,
    ) -> list[tuple[str, float]]:
        """Returns ids and scores of the vectors nearest to a text or a vector, best first."""
        request = vector.SearchVectorsRequest(collection=_named("collections", collection), k=k, filter=filter)
        if isinstance(query, str):
            request.text = query
        else:
            request.vector = _bytes(query)
        reply = await self._call(self._vector.SearchVectors, request, timeout_s)
        return [(match.id, match.score) for match in reply.matches]
