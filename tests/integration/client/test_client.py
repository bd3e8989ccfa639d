"""The Python client against a real gRPC server that fails on demand."""

from __future__ import annotations

import asyncio
import struct
from array import array
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

import aisle_client
from aisle.v1 import (
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    item_service_pb2,
    item_service_pb2_grpc,
    recommendation_service_pb2,
    recommendation_service_pb2_grpc,
)
from aisle_client import AisleClient, Backoff


def _status(code: int, message: str, *details: Message) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code, message=message, details=packed)


class _Server(
    recommendation_service_pb2_grpc.RecommendationServiceServicer,
    embedding_service_pb2_grpc.EmbeddingServiceServicer,
    event_service_pb2_grpc.EventServiceServicer,
    item_service_pb2_grpc.ItemServiceServicer,
):
    """Fails with the statuses in `failures`, one a call, then answers; keeps requests, metadata and times."""

    def __init__(self) -> None:
        self.failures: list[status_pb2.Status] = []
        self.requests: list[object] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.times: list[float] = []
        self.target = ""

    async def _take(self, request: object, context: aio.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        self.times.append(asyncio.get_running_loop().time())
        if self.failures:
            await context.abort_with_status(rpc_status.to_status(self.failures.pop(0)))

    async def RecommendItems(  # noqa: N802
        self, request: recommendation_service_pb2.RecommendItemsRequest, context: aio.ServicerContext
    ) -> recommendation_service_pb2.RecommendItemsResponse:
        await self._take(request, context)
        if request.user == "users/slow":
            await asyncio.sleep(30)
        return recommendation_service_pb2.RecommendItemsResponse(items=[recommendation_service_pb2.RankedItem(item="items/a")])

    async def EmbedTexts(  # noqa: N802
        self, request: embedding_service_pb2.EmbedTextsRequest, context: aio.ServicerContext
    ) -> embedding_service_pb2.EmbedTextsResponse:
        await self._take(request, context)
        vectors = [
            embedding_service_pb2.EmbedTextsResponse.Embedding(vector=struct.pack("<2f", n, 0.5)) for n, _ in enumerate(request.texts)
        ]
        return embedding_service_pb2.EmbedTextsResponse(embeddings=vectors, model="text_encoder", runtime="local")

    async def IngestEvents(  # noqa: N802
        self, request: event_service_pb2.IngestEventsRequest, context: aio.ServicerContext
    ) -> event_service_pb2.IngestEventsResponse:
        await self._take(request, context)
        return event_service_pb2.IngestEventsResponse(accepted_count=len(request.events), consistency_token="t-1")

    async def ListItems(  # noqa: N802
        self, request: item_service_pb2.ListItemsRequest, context: aio.ServicerContext
    ) -> item_service_pb2.ListItemsResponse:
        await self._take(request, context)
        start = int(request.page_token or 0)
        return item_service_pb2.ListItemsResponse(
            items=[item_service_pb2.Item(name=f"items/{start}")], next_page_token=str(start + 1) if start < 2 else ""
        )


@pytest.fixture
async def server() -> AsyncIterator[_Server]:
    """A server on a free loopback port."""
    servicer, server = _Server(), aio.server()
    recommendation_service_pb2_grpc.add_RecommendationServiceServicer_to_server(servicer, server)
    embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(servicer, server)
    event_service_pb2_grpc.add_EventServiceServicer_to_server(servicer, server)
    item_service_pb2_grpc.add_ItemServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer
    await server.stop(0)


@pytest.fixture
async def client(server: _Server) -> AsyncIterator[AisleClient]:
    """A client of that server that waits little between attempts."""
    async with AisleClient(server.target, key="k-1", backoff=Backoff(attempts=4, initial_s=0.01)) as client:
        yield client


_DOWN = _status(code_pb2.UNAVAILABLE, "redis: down", error_details_pb2.ErrorInfo(reason="UNAVAILABLE", domain="aisle.dev"))


async def test_ids_and_key_are_sent_as_the_api_wants_them(server: _Server, client: AisleClient) -> None:
    """A plain id becomes a resource name, a full name stays, and the key travels as a bearer token."""
    await client.recommend_items("u1", max_results=3)
    await client.recommend_items("users/u2")
    assert [request.user for request in server.requests] == ["users/u1", "users/u2"]
    assert server.metadata[0]["authorization"] == "Bearer k-1"


async def test_unavailable_is_retried_until_it_answers(server: _Server, client: AisleClient) -> None:
    """Two failures by UNAVAILABLE are hidden from the caller."""
    server.failures = [_DOWN, _DOWN]
    reply = await client.recommend_items("u1")
    assert reply.items[0].item == "items/a"
    assert len(server.requests) == 3


async def test_attempts_are_limited_and_the_last_failure_is_raised(server: _Server, client: AisleClient) -> None:
    """After as many attempts as the backoff allows, the caller gets the server's own words."""
    server.failures = [_DOWN] * 10
    with pytest.raises(aisle_client.UnavailableError, match="redis: down") as caught:
        await client.recommend_items("u1")
    assert (len(server.requests), caught.value.reason) == (4, "UNAVAILABLE")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (code_pb2.INTERNAL, aisle_client.InternalError),
        (code_pb2.DATA_LOSS, aisle_client.InternalError),
        (code_pb2.NOT_FOUND, aisle_client.NotFoundError),
        (code_pb2.ABORTED, aisle_client.AbortedError),
        (code_pb2.UNAUTHENTICATED, aisle_client.UnauthenticatedError),
        (code_pb2.DEADLINE_EXCEEDED, aisle_client.DeadlineExceededError),
        (code_pb2.RESOURCE_EXHAUSTED, aisle_client.OverloadedError),
    ],
)
async def test_other_codes_are_sent_once_and_have_their_class(
    server: _Server, client: AisleClient, code: int, expected: type[aisle_client.AisleError]
) -> None:
    """Nothing but UNAVAILABLE is sent again, RESOURCE_EXHAUSTED without RetryInfo included."""
    server.failures = [_status(code, "no")]
    with pytest.raises(expected):
        await client.recommend_items("u1")
    assert len(server.requests) == 1


async def test_overload_with_retry_info_waits_as_long_as_it_says(server: _Server, client: AisleClient) -> None:
    """RESOURCE_EXHAUSTED that names a delay is sent again, not sooner than that."""
    server.failures = [_status(code_pb2.RESOURCE_EXHAUSTED, "full", error_details_pb2.RetryInfo(retry_delay=Duration(nanos=200_000_000)))]
    await client.recommend_items("u1")
    first, second = server.times
    assert second - first >= 0.2


async def test_a_wait_past_the_deadline_is_not_begun(server: _Server, client: AisleClient) -> None:
    """Where the server's delay would pass the deadline, the error comes at once."""
    server.failures = [_status(code_pb2.RESOURCE_EXHAUSTED, "full", error_details_pb2.RetryInfo(retry_delay=Duration(seconds=60)))]
    with pytest.raises(aisle_client.OverloadedError) as caught:
        await client.recommend_items("u1", timeout_s=5)
    assert (caught.value.retry_after_s, len(server.requests)) == (60.0, 1)


async def test_the_deadline_holds_over_a_slow_server(client: AisleClient) -> None:
    """A call that is not answered in time raises DeadlineExceededError."""
    with pytest.raises(aisle_client.DeadlineExceededError):
        await client.recommend_items("slow", timeout_s=0.2)


async def test_cancelling_the_task_cancels_the_call(client: AisleClient) -> None:
    """A cancelled caller sees CancelledError, not an error of the client."""
    task = asyncio.create_task(client.recommend_items("slow"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_field_violations_and_reason_are_typed(server: _Server, client: AisleClient) -> None:
    """An invalid request names its fields and what to send instead, its reason and metadata."""
    violation = error_details_pb2.BadRequest.FieldViolation(field="filter", description="unknown field `colour`")
    info = error_details_pb2.ErrorInfo(reason="FILTER_SYNTAX", domain="aisle.dev", metadata={"position": "8"})
    server.failures = [_status(code_pb2.INVALID_ARGUMENT, "bad filter", info, error_details_pb2.BadRequest(field_violations=[violation]))]
    with pytest.raises(aisle_client.InvalidArgumentError) as caught:
        await client.recommend_items("u1", filter="colour=1")
    assert caught.value.reason == "FILTER_SYNTAX"
    assert caught.value.metadata == {"position": "8"}
    assert caught.value.violations == (aisle_client.FieldViolation("filter", "unknown field `colour`"),)
    assert str(caught.value) == "FILTER_SYNTAX: bad filter"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    """A refused connection is retried inside the deadline and then told as UnavailableError."""
    async with AisleClient("127.0.0.1:9", backoff=Backoff(attempts=2, initial_s=0.01), timeout_s=5) as nobody:
        with pytest.raises(aisle_client.UnavailableError) as caught:
            await nobody.recommend_items("u1")
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


async def test_vectors_come_as_numbers(client: AisleClient) -> None:
    """Little-endian bytes arrive as float32 arrays, in the texts' order."""
    found = await client.embed_texts(["a", "b"])
    assert [one.vector for one in found.embeddings] == [array("f", [0.0, 0.5]), array("f", [1.0, 0.5])]
    assert found.runtime == "local"


async def test_a_retried_event_keeps_its_id(server: _Server, client: AisleClient) -> None:
    """Events without an id get one before the first attempt, so the second attempt is the same event."""
    server.failures = [_DOWN]
    assert await client.track("u1", "save", "i1", properties={"page": 2}) == "t-1"
    first, second = server.requests
    assert first == second
    assert len(first.events[0].event_id) == 36


async def test_listing_follows_the_pages(client: AisleClient) -> None:
    """All pages are read, and an empty token ends them."""
    assert [item.name async for item in client.list_items()] == ["items/0", "items/1", "items/2"]


def _public_names(module: object, kept: Callable[[str], bool]) -> set[str]:
    return {name for name in vars(module) if kept(name)}


def test_exported_names_are_the_public_ones() -> None:
    """`aisle_client` exports what `__all__` says and no more."""
    modules = {"client", "errors", "retries", "tls"}
    assert _public_names(aisle_client, lambda name: not name.startswith("_")) - modules == set(aisle_client.__all__)
