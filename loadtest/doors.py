"""The two doors as Locust users: one method a kind of call, each counted with its door, its rung and the load at which it was sent.

Runs in gevent: never import `grpc.aio` here.
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
from locust import FastHttpUser, User, constant_pacing, events  # noqa: E402

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
from loadtest.tls import client_tls  # noqa: E402

GRPC_ADDRESS = os.environ.get("AISLE_GRPC_ADDRESS", "127.0.0.1:50051")
HTTP_ADDRESS = os.environ.get("AISLE_HTTP_ADDRESS", "127.0.0.1:8080").removeprefix("http://").removeprefix("https://")
TLS = client_tls()
KEY = os.environ.get("AISLE_KEY", "")
PACE_S = float(os.environ.get("AISLE_LOAD_PACE_S", "0"))
"""Least seconds between two tasks of one user. 0: closed loop, each sends as soon as the last was answered."""
TIMEOUT_S = 10.0
METADATA = (("authorization", f"Bearer {KEY}"),) if KEY else ()

rungs: Counter[str] = Counter()
tokens: Counter[str] = Counter()
"""Lists asked for with a consistency token: `seen` those that saw the event, `unseen` those that said they did not."""
item_names: list[str] = []


def random_user() -> str:
    """Returns one of the demo tenant's couples."""
    return f"couple-{random.randrange(1000):06d}"  # noqa: S311  # which user is no secret


def load_user() -> str:
    """Returns a user of the load's own."""
    return f"load-{random.randrange(200):04d}"  # noqa: S311


def random_item() -> str:
    """Returns the name of an item of the catalogue."""
    return random.choice(item_names)  # noqa: S311


def new_text() -> str:
    """Returns a text nobody sent before."""
    return f"a quiet garden venue for {random.randrange(10**9)} guests"  # noqa: S311


def open_channel() -> grpc.Channel:
    """Returns a channel to the gRPC door."""
    if TLS is None:
        return grpc.insecure_channel(GRPC_ADDRESS)
    return grpc.secure_channel(GRPC_ADDRESS, grpc.ssl_channel_credentials(TLS.authorities, TLS.key, TLS.certificate))


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
    with open_channel() as channel:
        try:
            page = item_grpc.ItemServiceStub(channel).ListItems(item.ListItemsRequest(page_size=200), timeout=TIMEOUT_S, metadata=METADATA)
        except grpc.RpcError as error:
            cause = error.details() or error.code().name
            mend = "check --tls-ca, --tls-certificate and --tls-key" if TLS else "start the server with `make up`; one with TLS wants --tls"
            sys.exit(f"loadtest: no answer at {GRPC_ADDRESS}: {cause}; {mend}")
    item_names.extend(one.name for one in page.items if not one.content_type)
    if not item_names:
        sys.exit("loadtest: the catalogue is empty; import one, or start with the demo tenant")


class GrpcDoor(User):
    """Calls by gRPC, all users over one channel."""

    abstract = True

    wait_time = constant_pacing(PACE_S)
    _channel: grpc.Channel | None = None

    def on_start(self) -> None:
        """Makes the stubs, and the channel where this user is the first."""
        if GrpcDoor._channel is None:
            GrpcDoor._channel = open_channel()
        channel = GrpcDoor._channel
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

    def recommend(self, user: str) -> None:
        """A list for a user."""
        self._recommend("RecommendItems", user=f"users/{user}")

    def recommend_filtered(self, user: str) -> None:
        """A list within a category and a price."""
        self._recommend("RecommendItems (filter)", user=f"users/{user}", filter='categories:"venue" AND price <= 9000')

    def act_then_recommend(self, user: str, item_name: str, event_type: str) -> None:
        """An event, then a list that must have seen it."""
        one = event.Event(event_id=str(uuid.uuid4()), user=f"users/{user}", item=item_name, event_type=event_type)
        reply = self._send("IngestEvents", self.events.IngestEvents, event.IngestEventsRequest(events=[one]))
        if reply and reply.accepted_count:
            acknowledged.add(one.event_id)
            self._recommend("RecommendItems (token)", user=one.user, consistency_token=reply.consistency_token)

    def similar(self, item_name: str) -> None:
        """What resembles an item."""
        request = recommendation.ListSimilarItemsRequest(item=item_name, max_results=10)
        self._send("ListSimilarItems", self.recommendation.ListSimilarItems, request)

    def page(self, user: str) -> None:
        """A whole page's content."""
        request = personalization.GeneratePersonalizationRequest(user_id=user)
        self._send("GeneratePersonalization", self.personalization.GeneratePersonalization, request)

    def embed(self, text: str) -> None:
        """A text's vector."""
        self._send("EmbedTexts", self.embedding.EmbedTexts, embedding.EmbedTextsRequest(texts=[text]))


class RestDoor(FastHttpUser):
    """The same by HTTP and JSON."""

    abstract = True

    wait_time = constant_pacing(PACE_S)
    host = f"{'https' if TLS else 'http'}://{HTTP_ADDRESS}"
    insecure = False
    ssl_context_factory = staticmethod(lambda: TLS.context) if TLS else None
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

    def recommend(self, user: str) -> None:
        """A list for a user."""
        self._recommend("RecommendItems", user)

    def act_then_recommend(self, user: str, item_name: str, event_type: str) -> None:
        """An event, then a list that must have seen it."""
        event_id = str(uuid.uuid4())
        one = {"eventId": event_id, "user": f"users/{user}", "item": item_name, "eventType": event_type}
        reply = self._post("IngestEvents", "/v1/events:ingest", {"events": [one]})
        if reply and reply.get("acceptedCount"):
            acknowledged.add(event_id)
            self._recommend("RecommendItems (token)", user, consistencyToken=reply["consistencyToken"])

    def page(self, user: str) -> None:
        """A whole page's content."""
        self._post("GeneratePersonalization", "/api/ai/personalization/generate", {"userId": user})
