"""A steady mixed load by both doors that keeps what every call was answered, and the id of every acknowledged event."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
from google.protobuf.message import Message

from aisle.v1 import embedding_service_pb2 as embedding
from aisle.v1 import event_service_pb2 as event
from aisle.v1 import personalization_service_pb2 as personalization
from aisle.v1 import recommendation_service_pb2 as recommendation

DEADLINE_S = 5.0
_SEVERAL = """{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{"name": [{}], "retryPolicy": {
    "maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "0.2s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]
}"""
"""For several replicas: take them in turn, and try again on the next one what one has refused."""


@dataclass(frozen=True, slots=True)
class Address:
    """Both doors of one server, HOST:PORT each."""

    grpc: str
    http: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One call: when it began (`time.monotonic()`), how long it took, and what came of it."""

    began: float
    seconds: float
    kind: str
    """`read` or `write`."""
    error: str
    """Code and message; empty when it was answered."""
    rung: str
    """Empty for what has none."""
    token: bool = False
    """Whether a list was to have seen an event."""


class Load:
    """Callers that each begin an action every `pace_s` seconds, or as soon as the last one ended, whichever is later.

    Half of the actions are lists of known couples, half of those for a page that no cache knows; a quarter write an event and ask for a
    list that has seen it; the rest are lists of strangers, filtered lists, pages and texts. One caller in four uses HTTP. Where there are
    several addresses gRPC takes them in turn and tries UNAVAILABLE again on the next, and HTTP goes to the next when a connection is
    refused or cut, as proxies do. With one address nothing is tried twice.
    """

    def __init__(self, addresses: Sequence[Address], *, callers: int, pace_s: float, couples: int, items: Sequence[str]) -> None:
        """Stores the arguments; `items` are names, `couples` the number of known users."""
        self.answers: list[Answer] = []
        self.acknowledged: list[tuple[float, str]] = []
        """When an event was acknowledged, and its id."""
        self.clock_ahead = timedelta()
        """How far the senders' clock is ahead of ours."""
        self.undated = False
        """Whether events say no time, so that the server's clock stamps them."""
        self.pace_s = pace_s
        """Least seconds between two actions of a caller; may be set while they call."""
        self._addresses = addresses
        self._callers = callers
        self._couples = couples
        self._items = items

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads while the context is open."""
        async with AsyncExitStack() as stack:
            tasks = []
            for number in range(self._callers):
                if number % 4 == 3:
                    caller: _GrpcCaller | _HttpCaller = _HttpCaller(self, self._addresses)
                else:
                    caller = _GrpcCaller(self, self._addresses)
                await stack.enter_async_context(caller.open())
                tasks.append(asyncio.create_task(self._call_forever(caller, number)))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                for one in ended:
                    if isinstance(one, Exception):  # a caller that broke would make silence look like health
                        raise one

    async def _call_forever(self, caller: _GrpcCaller | _HttpCaller, number: int) -> None:
        dice = random.Random(number)  # noqa: S311  # the same mixture in every run
        await asyncio.sleep(self.pace_s * number / self._callers)
        while True:
            next_at = time.monotonic() + self.pace_s
            await self._act(caller, dice)
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))

    async def _act(self, caller: _GrpcCaller | _HttpCaller, dice: random.Random) -> None:
        couple, throw = f"couple-{dice.randrange(self._couples):06d}", dice.random()
        if throw < 0.25:
            await caller.recommend(couple)
        elif throw < 0.5:
            await caller.recommend(couple, page=f"/{dice.randrange(10**9)}")
        elif throw < 0.75:
            user, event_id = f"load-{dice.randrange(50):04d}", uuid.uuid4().hex
            token = await caller.ingest(event_id, user, dice.choice(self._items), self._moment())
            if token:
                self.acknowledged.append((time.monotonic(), event_id))
                await caller.recommend(user, token=token)
        elif throw < 0.8:
            await caller.recommend(f"stranger-{uuid.uuid4().hex}")
        elif throw < 0.88:
            await caller.recommend(couple, query='categories:"venue" AND price <= 9000')
        elif throw < 0.95:
            await caller.embed(f"a quiet garden venue for {dice.randrange(10**9)} guests")
        else:
            await caller.page(couple)

    def _moment(self) -> datetime | None:
        return None if self.undated else datetime.now(UTC) + self.clock_ahead

    def note(self, kind: str, began: float, *, error: str = "", rung: str = "", token: bool = False) -> None:
        """Keeps what a call was answered."""
        self.answers.append(Answer(began, time.monotonic() - began, kind, error, rung, token))


class _GrpcCaller:
    """Calls over a channel of its own, so that callers spread over the processes that share a port."""

    def __init__(self, load: Load, addresses: Sequence[Address]) -> None:
        self._load = load
        self._target = "ipv4:" + ",".join(one.grpc for one in addresses)
        self._policy = _SEVERAL if len(addresses) > 1 else "{}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.service_config", self._policy),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
        ]
        async with grpc.aio.insecure_channel(self._target, options=options) as self._channel:
            yield

    async def _send(self, kind: str, method: str, request: Message, reply: type[Any]) -> Any:
        call = self._channel.unary_unary(
            f"/aisle.v1.{method}", request_serializer=type(request).SerializeToString, response_deserializer=reply.FromString
        )
        began = time.monotonic()
        try:
            answer = await call(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            self._load.note(kind, began, error=f"{error.code().name}: {error.details()}")
            return None
        rung = recommendation.Ladder.Rung.Name(answer.rung) if hasattr(answer, "rung") else ""
        self._load.note(kind, began, rung=rung, token=bool(getattr(request, "consistency_token", "")))
        return answer

    async def recommend(self, user: str, *, token: str = "", query: str = "", page: str = "") -> None:
        context = recommendation.Context(page=page) if page else None
        request = recommendation.RecommendItemsRequest(
            user=f"users/{user}", max_results=20, consistency_token=token, filter=query, context=context
        )
        await self._send("read", "RecommendationService/RecommendItems", request, recommendation.RecommendItemsResponse)

    async def ingest(self, event_id: str, user: str, item: str, at: datetime | None) -> str:
        """Returns the consistency token, empty when the event was not acknowledged. `at`: None lets the server say when."""
        one = event.Event(event_id=event_id, user=f"users/{user}", item=item, event_type="save")
        if at is not None:
            one.occur_time.FromDatetime(at)
        request = event.IngestEventsRequest(events=[one])
        reply = await self._send("write", "EventService/IngestEvents", request, event.IngestEventsResponse)
        return str(reply.consistency_token) if reply and reply.accepted_count else ""

    async def embed(self, text: str) -> None:
        request = embedding.EmbedTextsRequest(texts=[text])
        await self._send("read", "EmbeddingService/EmbedTexts", request, embedding.EmbedTextsResponse)

    async def page(self, user: str) -> None:
        request = personalization.GeneratePersonalizationRequest(user_id=user)
        await self._send(
            "read",
            "PersonalizationService/GeneratePersonalization",
            request,
            personalization.GeneratePersonalizationResponse,
        )


class _HttpCaller:
    """The same by HTTP and JSON."""

    def __init__(self, load: Load, addresses: Sequence[Address]) -> None:
        self._load = load
        self._bases = itertools.cycle(f"http://{one.http}" for one in addresses)
        self._count = len(addresses)
        self._base = next(self._bases)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as self._client:
            yield

    async def _send(self, kind: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        began = time.monotonic()
        error = ""
        for _ in range(self._count):
            try:
                response = await self._client.post(self._base + path, json=body)
            except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as failure:
                error = f"{type(failure).__name__}: {failure}"
                self._base = next(self._bases)
                continue
            except httpx.HTTPError as failure:
                error = f"{type(failure).__name__}: {failure}"
                break
            reply: dict[str, Any] = response.json()
            if response.status_code == 200:
                self._load.note(kind, began, rung=str(reply.get("rung", "")), token="consistencyToken" in body)
                return reply
            error = f"HTTP {response.status_code}: {reply.get('message', '')}"
            break
        self._load.note(kind, began, error=error)
        return None

    async def recommend(self, user: str, *, token: str = "", query: str = "", page: str = "") -> None:
        body = {"maxResults": 20, "consistencyToken": token, "filter": query, "context": {"page": page} if page else None}
        await self._send("read", f"/v1/users/{user}:recommendItems", {key: value for key, value in body.items() if value})

    async def ingest(self, event_id: str, user: str, item: str, at: datetime | None) -> str:
        one = {"eventId": event_id, "user": f"users/{user}", "item": item, "eventType": "save"}
        if at is not None:
            one["occurTime"] = at.isoformat()
        reply = await self._send("write", "/v1/events:ingest", {"events": [one]})
        return str(reply["consistencyToken"]) if reply and reply.get("acceptedCount") else ""

    async def embed(self, text: str) -> None:
        await self._send("read", "/v1/embeddings:embedTexts", {"texts": [text]})

    async def page(self, user: str) -> None:
        await self._send("read", "/v1/personalization:generate", {"userId": user})
