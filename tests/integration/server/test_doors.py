"""What stands beside the services: health, reflection, metrics."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from aisle.v1 import recommendation_service_pb2 as pb
from server.app import Endpoints, serving
from server.embedded import Parts
from server.errors import FailedPreconditionError
from server.inference import BuiltEncoder
from tests.fixtures_server import Door, health, server_settings

SERVICES = ("Embedding", "Event", "Item", "Personalization", "Recommendation", "Vector")


async def test_health_names_every_service(door: Door) -> None:
    """grpc.health.v1 says SERVING for the server and each service, without a key; an unknown one is NOT_FOUND; HTTP says the same."""
    for service in ("", *(f"aisle.v1.{name}Service" for name in SERVICES)):
        assert await health(door.channel, service) == "SERVING"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(door.channel, "aisle.v1.NoService")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    for path in ("/healthz/live", "/healthz/ready"):
        assert (await door.rest("GET", path, key="")).status_code == 200


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_every_service(door: Door, version: str) -> None:
    """Server reflection lists all services and gives their files, by the name of today and the one that older tools ask for."""
    call = door.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="aisle.v1.RecommendationService"),
    ]
    replies = [reply async for reply in call(iter(asked), timeout=20)]
    names = {service.name for service in replies[0].list_services_response.service}
    assert {f"aisle.v1.{name}Service" for name in SERVICES} | {
        "grpc.health.v1.Health",
        f"grpc.reflection.{version}.ServerReflection",
    } <= names
    files = [FileDescriptorProto.FromString(file) for file in replies[1].file_descriptor_response.file_descriptor_proto]
    assert "aisle/v1/recommendation_service.proto" in {file.name for file in files}


async def test_metrics_count_calls_rungs_and_items(door: Door) -> None:
    """After a list, /metrics holds its call by method, door and code, its rung, its steps, and the size of the index."""
    await door.call("RecommendationService/RecommendItems", pb.RecommendItemsRequest(user="users/metrics"), pb.RecommendItemsResponse)
    text = (await door.rest("GET", "/metrics", key="")).text
    for part in (
        'aisle_call_seconds_count{code="OK",door="grpc",method="/aisle.v1.RecommendationService/RecommendItems"}',
        'aisle_rung_total{method="RecommendItems",rung="FULL"}',
        'aisle_step_seconds_count{step="rank"}',
        'aisle_index_items{tenant="shop"}',
    ):
        assert part in text


async def test_stopping_lets_accepted_calls_finish(parts: Parts, encoder: BuiltEncoder, short_dir: Path, door: Door) -> None:
    """A server that stops answers the requests that it had accepted, and takes no more."""
    endpoints = Endpoints(parts.database_url, parts.redis_url, "")
    settings = server_settings(short_dir / "stopping", runtime="local")
    headers = {"authorization": f"Bearer {door.key}", "grpc-timeout": "60S"}
    texts = {"texts": ["a long text about barns " * 20 + str(number) for number in range(24)]}
    async with serving(settings, endpoints, encoder) as doors:
        http = httpx.AsyncClient(base_url=f"http://{doors.http_address}", timeout=60, headers=headers)
        assert (await http.get("/healthz/ready")).status_code == 200
        accepted = [asyncio.create_task(http.post("/v1/embeddings:embedTexts", json=texts)) for _ in range(3)]
        await asyncio.sleep(0.2)
    replies = await asyncio.gather(*accepted)
    assert [(reply.status_code, len(reply.json().get("embeddings", []))) for reply in replies] == [(200, 24)] * 3
    with pytest.raises(httpx.ConnectError):
        await http.get("/healthz/ready")
    await http.aclose()


async def test_open_doors_need_keys(encoder: BuiltEncoder, short_dir: Path) -> None:
    """A server that other machines could call without a key does not start, and says which setting to change."""
    settings = server_settings(short_dir / "open").model_copy(update={"grpc_address": "0.0.0.0:0"})
    with pytest.raises(FailedPreconditionError, match=r"AISLE_GRPC_ADDRESS=.* AISLE_REQUIRE_KEY"):
        async with serving(settings, Endpoints("", "", ""), encoder):
            pass
