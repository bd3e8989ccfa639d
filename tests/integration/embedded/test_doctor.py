from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from click.testing import CliRunner

from server.cli.doctor import check_audit, diagnose, doctor
from server.domain import TenantId
from server.embedded import Parts, running_parts
from server.embedded.answers import check_database, check_redis, check_triton
from server.embedded.findings import Finding, check_address
from server.inference.encoder import write_manifest
from server.settings import Settings
from server.store import Database
from server.store.audit import append_audit


def _silent(_line: str) -> None:
    pass


def _faults(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings if finding.status == "fault"}


@pytest.fixture(scope="module")
async def frail_redis(data_dir: Path) -> AsyncIterator[Parts]:
    """A Redis whose settings a test may spoil."""
    async with running_parts(
        data_dir=data_dir, database=False, redis=True, triton=False, model_files={}, model_repository=data_dir
    ) as running:
        yield running


def test_doctor_starts_what_is_not_configured_and_finds_a_fresh_machine_well(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fresh folder every embedded part is started, asked and found well, and the exit code is 0."""
    for name, value in {
        "DATA_DIR": str(data_dir.parent / "fresh"),
        "CACHE_DIR": str(tmp_path),
        "GRPC_ADDRESS": "127.0.0.1:0",
        "HTTP_ADDRESS": "127.0.0.1:0",
    }.items():
        monkeypatch.setenv(f"AISLE_{name}", value)
    result = CliRunner().invoke(doctor, ["--json"])
    answer = json.loads(result.stdout)
    assert answer["ok"], answer
    assert result.exit_code == 0
    well = {finding["check"] for finding in answer["findings"] if finding["status"] == "ok"}
    assert {"python", "postgres wheel", "redis wheel", "triton wheel", "data folder", "database", "pgvector", "database clock"} <= well
    assert {"redis", "redis aof", "redis clock", "triton"} <= well


async def test_doctor_names_every_fault_and_its_mend(tmp_path: Path, data_dir: Path, frail_redis: Parts) -> None:
    """Unreachable servers, a folder below a file, a taken port and a damaged model each give a fault with a mend."""
    damaged = tmp_path / "text_encoder" / "damaged"
    damaged.mkdir(parents=True)
    for name in ("model.onnx", "tokenizer.json"):
        (damaged / name).write_bytes(b"whole")
    write_manifest(damaged, version="damaged", max_tokens=256, source="here")
    (damaged / "model.onnx").write_bytes(b"cut")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings(
            data_dir=blocked / "data",
            cache_dir=tmp_path,
            database_url="postgresql://aisle:secret@127.0.0.1:1/aisle",
            redis_url="redis://:secret@127.0.0.1:1",
            triton_url="127.0.0.1:1",
            grpc_address=f"127.0.0.1:{port}",
            http_address="127.0.0.1:notaport",
        )
        faults = _faults(await diagnose(settings, progress=_silent))
    assert faults.keys() >= {"text encoder", "data folder", "database", "redis", "triton", "grpc address", "http address"}
    assert all(fault.mend for fault in faults.values())
    assert not any("secret" in fault.detail + fault.mend for fault in faults.values())
    assert faults["data folder"].mend == "name a folder that you can write in AISLE_DATA_DIR"
    assert "aisle models build" in faults["text encoder"].mend
    assert "AISLE_GRPC_ADDRESS" in faults["grpc address"].mend


async def test_doctor_finds_a_redis_that_may_lose_events(frail_redis: Parts) -> None:
    """A Redis without append-only file, or one that evicts, breaks the promise on acknowledged events, and is a fault."""
    assert _faults(await check_redis(frail_redis.redis_url)) == {}
    async with redis.asyncio.from_url(frail_redis.redis_url) as client:
        await client.config_set("appendonly", "no")
        await client.config_set("maxmemory", "100mb")
        await client.config_set("maxmemory-policy", "allkeys-lru")
    faults = _faults(await check_redis(frail_redis.redis_url))
    assert faults.keys() == {"redis aof", "redis memory"}


async def test_doctor_reads_the_real_parts(parts_with_triton: Parts) -> None:
    """Versions come from the servers themselves."""
    database = await check_database(parts_with_triton.database_url)
    assert [finding.check for finding in database] == ["database", "pgvector", "database clock"]
    assert database[0].detail.startswith("PostgreSQL 18")
    (triton,) = await check_triton(parts_with_triton.triton_url)
    assert triton == Finding("triton", "ok", "Triton 2.51.0 with doubler")


def test_an_address_in_use_by_the_running_instance_is_no_fault() -> None:
    """While Aisle runs on the folder, its own ports are taken, and rightly so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert check_address("grpc address", address, setting="AISLE_GRPC_ADDRESS", in_use="process 1").status == "ok"
        assert check_address("grpc address", address, setting="AISLE_GRPC_ADDRESS", in_use="").status == "fault"


async def test_doctor_finds_an_audit_log_that_was_changed(parts: Parts, database: Database, tenant_id: TenantId) -> None:
    """An entry changed past the triggers is a fault that names the tenant; before that the tenant's log is found whole."""
    async with database.tenant(tenant_id) as connection:
        await append_audit(connection, actor="cli", action="try", resource="things/1")
    assert f"tenant {tenant_id}:" not in (await check_audit(parts.database_url)).detail
    async with database.system() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("UPDATE audit_log SET actor = 'x' WHERE tenant_id = $1", tenant_id)
    finding = await check_audit(parts.database_url)
    assert (finding.status, bool(finding.mend)) == ("fault", True)
    assert f"tenant {tenant_id}: audit_log: entry 1" in finding.detail
