"""A gRPC user and a REST user that do what a wedding site does: lists, lists after an event, pages, profiles, text vectors.

Recommendations are asked for the demo tenant's couples; events are written for users of the load's own (`load-…`), so the couples stay
as they were generated. Runs in gevent: never import `grpc.aio` here.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any, TextIO

import grpc
import grpc.experimental.gevent as grpc_gevent

grpc_gevent.init_gevent()  # before the first channel

from google.protobuf.message import Message  # noqa: E402
from locust import FastHttpUser, User, constant_pacing, events, task  # noqa: E402

from aisle.v1 import embedding_service_pb2 as embedding  # noqa: E402
from aisle.v1 import embedding_service_pb2_grpc as embedding_grpc  # noqa: E402
from aisle.v1 import event_service_pb2 as event  # noqa: E402
from aisle.v1 import event_service_pb2_grpc as event_grpc  # noqa: E402
from aisle.v1 import item_service_pb2 as item  # noqa: E402
from aisle.v1 import item_service_pb2_grpc as item_grpc  # noqa: E402
from aisle.v1 import personalization_service_pb2 as personalization  # noqa: E402
from aisle.v1 import personalization_service_pb2_grpc as personalization_grpc  # noqa: E402
from aisle.v1 import recommendation_service_pb2 as recommendation  # noqa: E402
from aisle.v1 import recommendation_service_pb2_grpc as recommendation_grpc  # noqa: E402

GRPC_ADDRESS = os.environ.get("AISLE_GRPC_ADDRESS", "127.0.0.1:50051")
HTTP_ADDRESS = os.environ.get("AISLE_HTTP_ADDRESS", "127.0.0.1:8080").removeprefix("http://")
KEY = os.environ.get("AISLE_KEY", "")
PACE_S = float(os.environ.get("AISLE_LOAD_PACE_S", "0"))
"""Least seconds between two tasks of one user. 0: closed loop, each sends as soon as the last was answered."""
TIMEOUT_S = 10.0
METADATA = (("authorization", f"Bearer {KEY}"),) if KEY else ()

rungs: Counter[str] = Counter()
tokens: Counter[str] = Counter()
"""Lists asked for with a consistency token: `seen` those that saw the event, `unseen` those that said they did not."""
item_names: list[str] = []


def _random_user() -> str:
    return f"couple-{random.randrange(1000):06d}"  # noqa: S311  # which user is no secret


def _load_user() -> str:
    return f"load-{random.randrange(200):04d}"  # noqa: S311


def _random_item() -> str:
    return random.choice(item_names)  # noqa: S311


def _seen(rung: str, *, consistent: bool, with_token: bool) -> None:
    rungs[rung] += 1
    if with_token:
        tokens["seen" if consistent else "unseen"] += 1


class _Acknowledged:
    """Writes the ids of acknowledged events to the file that AISLE_LOAD_ACKNOWLEDGED names; nothing where it names none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: TextIO | None = None

    def add(self, event_id: str) -> None:
        path = os.environ.get("AISLE_LOAD_ACKNOWLEDGED")
        if not path:
            return
        with self._lock:
            if self._file is None:
                self._file = open(path, "a", encoding="ascii", buffering=1)  # noqa: SIM115, PTH123  # open for the whole run
            self._file.write(f"{event_id}\n")


acknowledged = _Acknowledged()


@events.init.add_listener
def _find_items(**_: Any) -> None:
    """Asks for a page of the catalogue before the clock starts, so that events and likenesses are of items that exist."""
    logging.getLogger("locust.stats_logger").disabled = True  # its table at the end has neither doors nor rungs; ours has
    with grpc.insecure_channel(GRPC_ADDRESS) as channel:
        try:
            page = item_grpc.ItemServiceStub(channel).ListItems(item.ListItemsRequest(page_size=200), timeout=TIMEOUT_S, metadata=METADATA)
        except grpc.RpcError as error:
            cause = error.details() or error.code().name
            sys.exit(f"loadtest: no answer at {GRPC_ADDRESS}: {cause}; start the server with `make up`")
    item_names.extend(one.name for one in page.items if not one.content_type)
    if not item_names:
        sys.exit("loadtest: the catalogue is empty; import one, or start with the demo tenant")


class GrpcUser(User):
    """Calls by gRPC, all users over one channel."""

    wait_time = constant_pacing(PACE_S)
    _channel: grpc.Channel | None = None

    def on_start(self) -> None:
        """Makes the stubs, and the channel where this user is the first."""
        if GrpcUser._channel is None:
            GrpcUser._channel = grpc.insecure_channel(GRPC_ADDRESS)
        channel = GrpcUser._channel
        self.recommendation = recommendation_grpc.RecommendationServiceStub(channel)
        self.personalization = personalization_grpc.PersonalizationServiceStub(channel)
        self.embedding = embedding_grpc.EmbeddingServiceStub(channel)
        self.events = event_grpc.EventServiceStub(channel)

    def _send(self, name: str, method: Callable[..., Any], request: Message) -> Any:
        """Returns the reply, or None after a failure; either is counted."""
        started = time.perf_counter()
        reply, failure = None, None
        try:
            reply = method(request, timeout=TIMEOUT_S, metadata=METADATA)
        except grpc.RpcError as error:
            failure = RuntimeError(f"{error.code().name}: {error.details()}")
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=(time.perf_counter() - started) * 1000,
            response_length=reply.ByteSize() if reply else 0,
            exception=failure,
            context={},
        )
        return reply

    def _recommend(self, name: str, **fields: Any) -> None:
        reply = self._send(name, self.recommendation.RecommendItems, recommendation.RecommendItemsRequest(max_results=20, **fields))
        if reply:
            _seen(recommendation.Ladder.Rung.Name(reply.rung), consistent=reply.consistent, with_token="consistency_token" in fields)

    @task(6)
    def recommend(self) -> None:
        """A list for a couple."""
        self._recommend("RecommendItems", user=f"users/{_random_user()}")

    @task(2)
    def recommend_filtered(self) -> None:
        """A list within a category and a price."""
        self._recommend("RecommendItems (filter)", user=f"users/{_random_user()}", filter='categories:"venue" AND price <= 9000')

    @task(3)
    def act_then_recommend(self) -> None:
        """An event, then a list that must have seen it."""
        user = f"users/{_load_user()}"
        one = event.Event(event_id=str(uuid.uuid4()), user=user, item=_random_item(), event_type="save")
        reply = self._send("IngestEvents", self.events.IngestEvents, event.IngestEventsRequest(events=[one]))
        if reply and reply.accepted_count:
            acknowledged.add(one.event_id)
            self._recommend("RecommendItems (token)", user=user, consistency_token=reply.consistency_token)

    @task(1)
    def similar(self) -> None:
        """What resembles an item."""
        request = recommendation.ListSimilarItemsRequest(item=_random_item(), max_results=10)
        self._send("ListSimilarItems", self.recommendation.ListSimilarItems, request)

    @task(1)
    def page(self) -> None:
        """A whole page's content."""
        request = personalization.GeneratePersonalizationRequest(user_id=_random_user())
        self._send("GeneratePersonalization", self.personalization.GeneratePersonalization, request)

    @task(1)
    def embed(self) -> None:
        """A text nobody sent before."""
        request = embedding.EmbedTextsRequest(texts=[f"a quiet garden venue for {random.randrange(10**9)} guests"])  # noqa: S311
        self._send("EmbedTexts", self.embedding.EmbedTexts, request)


class RestUser(FastHttpUser):
    """The same by HTTP and JSON."""

    wait_time = constant_pacing(PACE_S)
    host = f"http://{HTTP_ADDRESS}"
    network_timeout = connection_timeout = TIMEOUT_S
    default_headers = {"authorization": f"Bearer {KEY}"} if KEY else {}  # locust's own declaration

    def _post(self, name: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the reply, or None after a failure; either is counted, with the error's message."""
        with self.client.post(path, json=body, name=name, headers=self.default_headers, catch_response=True) as response:
            try:
                reply = response.json() if response.status_code else None
            except ValueError:
                reply = None
            if response.status_code == 200 and isinstance(reply, dict):
                return reply
            message = reply.get("message", "") if isinstance(reply, dict) else ""
            response.failure(f"HTTP {response.status_code} {message or response.error or ''}".strip())
            return None

    def _recommend(self, name: str, user: str, **body: Any) -> None:
        reply = self._post(name, f"/v1/users/{user}:recommendItems", {"maxResults": 20, **body})
        if reply:
            _seen(str(reply.get("rung")), consistent=bool(reply.get("consistent")), with_token="consistencyToken" in body)

    @task(6)
    def recommend(self) -> None:
        """A list for a couple."""
        self._recommend("RecommendItems", _random_user())

    @task(3)
    def act_then_recommend(self) -> None:
        """An event, then a list that must have seen it."""
        user, event_id = _load_user(), str(uuid.uuid4())
        one = {"eventId": event_id, "user": f"users/{user}", "item": _random_item(), "eventType": "save"}
        reply = self._post("IngestEvents", "/v1/events:ingest", {"events": [one]})
        if reply and reply.get("acceptedCount"):
            acknowledged.add(event_id)
            self._recommend("RecommendItems (token)", user, consistencyToken=reply["consistencyToken"])

    @task(1)
    def page(self) -> None:
        """A whole page's content."""
        self._post("GeneratePersonalization", "/api/ai/personalization/generate", {"userId": _random_user()})


@events.quitting.add_listener
def _report(environment: Any, **_: Any) -> None:
    """Prints the table; any failure, and a run without a call, makes the exit code 1."""
    from rich.console import Console
    from rich.table import Table

    table = Table("door", "method", "calls", "errors", "RPS", "p50 ms", "p95 ms", "p99 ms")
    total = environment.stats.total
    for entry in [*sorted(environment.stats.entries.values(), key=lambda one: (one.method, one.name)), total]:
        if not entry.num_requests:
            continue
        percentiles = [f"{entry.get_response_time_percentile(share):.0f}" for share in (0.5, 0.95, 0.99)]
        name = "all" if entry is total else entry.name
        door = "" if entry is total else "grpc" if entry.method == "grpc" else "rest"
        table.add_row(door, name, str(entry.num_requests), str(entry.num_failures), f"{entry.total_rps:.1f}", *percentiles)
    console = Console(width=110)
    console.print(table)
    for error in environment.stats.errors.values():
        console.print(f"{error.occurrences} x {error.name}: {error.error}", style="red", markup=False)
    console.print(f"rungs: {', '.join(f'{rung} {count}' for rung, count in rungs.most_common()) or 'none seen'}", highlight=False)
    console.print(f"lists after an event: {tokens['seen']} saw it, {tokens['unseen']} said they did not", highlight=False)
    if total.num_failures or not total.num_requests:
        environment.process_exit_code = 1
