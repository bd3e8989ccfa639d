"""What `aisle doctor` asks a database, a Redis or a Triton, embedded or configured: versions, promises kept, clocks."""

from __future__ import annotations

import time
from typing import Any

import asyncpg
import grpc
import redis.asyncio
import redis.exceptions
from tritonclient.grpc import service_pb2

from server.embedded.findings import Finding, fault_of

_LEAST_POSTGRES = 150_000
_LEAST_REDIS = (6, 2)
_MOST_SKEW_S = 2.0
_TIMEOUT_S = 5.0


async def check_database(url: str) -> list[Finding]:
    """Returns the findings on a PostgreSQL: version, durability, pgvector, clock."""
    try:
        connection = await asyncpg.connect(url, timeout=_TIMEOUT_S)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return [fault_of("database", error, "start PostgreSQL, and check AISLE_DATABASE_URL")]
    try:
        number = int(await connection.fetchval("SELECT current_setting('server_version_num')"))
        name = await connection.fetchval("SELECT current_setting('server_version')")
        synced = await connection.fetchval("SELECT current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off'")
        vector = await connection.fetchrow("SELECT default_version, installed_version FROM pg_available_extensions WHERE name = 'vector'")
        before = time.time()
        there = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
        after = time.time()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return [fault_of("database", error, "look into PostgreSQL's log")]
    finally:
        await connection.close(timeout=_TIMEOUT_S)
    findings = [_least("database", f"PostgreSQL {name}", fine=number >= _LEAST_POSTGRES, mend="use PostgreSQL 15 or newer")]
    if not synced:
        findings.append(Finding("database", "fault", "fsync or synchronous_commit is off: acknowledged writes can be lost", "turn both on"))
    if vector is None:
        findings.append(Finding("pgvector", "fault", "not available", "install pgvector (package postgresql-NN-pgvector)"))
    else:
        state = "installed" if vector["installed_version"] else "made by `aisle migrate`"
        findings.append(Finding("pgvector", "ok", f"{vector['installed_version'] or vector['default_version']}, {state}"))
    findings.append(_clock("database clock", there, before, after))
    return findings


async def check_redis(url: str) -> list[Finding]:
    """Returns the findings on a Redis: version, persistence, eviction, clock."""
    try:
        async with redis.asyncio.from_url(
            url, decode_responses=True, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        ) as client:
            server: dict[str, Any] = await client.info("server")
            persistence: dict[str, Any] = await client.info("persistence")
            memory: dict[str, Any] = await client.info("memory")
            before = time.time()
            seconds, micros = await client.time()
            after = time.time()
    except (OSError, ValueError, redis.exceptions.RedisError) as error:
        return [fault_of("redis", error, "start Redis, and check AISLE_REDIS_URL")]
    name = str(server["redis_version"])
    fine = tuple(int(part) for part in name.split(".")[:2]) >= _LEAST_REDIS
    findings = [_least("redis", f"Redis {name}", fine=fine, mend="use Redis 6.2 or newer, or Valkey")]
    if not persistence.get("aof_enabled"):
        findings.append(
            Finding("redis aof", "fault", "the append-only file is off: acknowledged events can be lost", "set `appendonly yes`")
        )
    elif persistence.get("aof_last_write_status", "ok") != "ok":
        findings.append(Finding("redis aof", "fault", "the last write to the append-only file failed", "look for a full disk"))
    else:
        findings.append(Finding("redis aof", "ok", "on"))
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and memory.get("maxmemory"):
        findings.append(Finding("redis memory", "fault", f"{policy} may evict acknowledged events", "set `maxmemory-policy noeviction`"))
    findings.append(_clock("redis clock", int(seconds) + int(micros) / 1e6, before, after))
    return findings


async def check_triton(address: str) -> list[Finding]:
    """Returns the findings on a Triton: live, version, models. Not "ready": that is false while any model of anyone's is broken."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            live = await _ask(channel, "ServerLive", service_pb2.ServerLiveRequest(), service_pb2.ServerLiveResponse)
            about = await _ask(channel, "ServerMetadata", service_pb2.ServerMetadataRequest(), service_pb2.ServerMetadataResponse)
            index = await _ask(channel, "RepositoryIndex", service_pb2.RepositoryIndexRequest(), service_pb2.RepositoryIndexResponse)
        except grpc.aio.AioRpcError as error:
            return [Finding("triton", "fault", f"{address}: {error.details()}", "start Triton, and check AISLE_TRITON_URL")]
    if not live.live:
        return [Finding("triton", "fault", f"Triton {about.version} is not live", "look into Triton's log")]
    loaded = sorted(model.name for model in index.models if model.state == "READY")
    return [Finding("triton", "ok", f"Triton {about.version} with {', '.join(loaded) or 'no model'}")]


async def _ask(channel: grpc.aio.Channel, method: str, request: Any, response: Any) -> Any:
    call = channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=response.FromString,
    )
    return await call(request, timeout=_TIMEOUT_S)


def _least(check: str, detail: str, *, fine: bool, mend: str) -> Finding:
    return Finding(check, "ok", detail) if fine else Finding(check, "fault", f"{detail} is too old", mend)


def _clock(check: str, there: float, before: float, after: float) -> Finding:
    """Returns whether a server's clock agrees with ours, as far as the question's own duration lets us know."""
    skew = max(0.0, before - there, there - after)
    if skew > _MOST_SKEW_S:
        return Finding(check, "fault", f"{skew:.1f} s apart from this machine's", "synchronize both clocks (NTP)")
    return Finding(check, "ok", f"within {max(skew, after - before) * 1000:.0f} ms")
