"""What calls a server does so by TLS, with a certificate of its own where the server asks for one: the client, the doctor, the load."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aisle_client import AisleClient, Backoff, UnavailableError, tls_credentials
from server.app import Endpoints, Serving, serving
from server.cli.doctor import diagnose
from server.demo.generate import Demo
from server.embedded import Parts
from server.embedded.findings import Finding
from server.errors import FailedPreconditionError
from server.inference import BuiltEncoder
from server.settings import Settings
from server.store import Database
from tests.certificates import Authority, Files
from tests.fixtures_server import SHOP, new_key, server_settings

_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Secured:
    """A server that asks for certificates, who signs them, one of a client, and a key of the shop."""

    serving: Serving
    authority: Authority
    client: Files
    key: str


@pytest.fixture(scope="module")
async def secured(
    parts: Parts,
    database: Database,
    shop: Demo,
    encoder: BuiltEncoder,
    short_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Secured]:
    """A running one; its certificate is of `localhost` and 127.0.0.1."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    files = authority.issue("localhost", dns=["localhost"], addresses=["127.0.0.1"])
    settings = server_settings(
        short_dir / "secured",
        runtime="local",
        require_key=True,
        tls_certificate=str(files.certificate),
        tls_key=str(files.key),
        tls_client_ca=str(authority.certificate),
    )
    key = await new_key(database, SHOP)
    async with serving(settings, Endpoints(parts.database_url, parts.redis_url, ""), encoder) as doors:
        yield Secured(doors, authority, authority.issue("client"), key)


async def test_the_client_library_speaks_tls(secured: Secured) -> None:
    """With the authority and a certificate the client's calls are answered; without the certificate, or the authority, none is."""
    ca, files = secured.authority.certificate, secured.client
    whole = tls_credentials(ca=ca, certificate=files.certificate, key=files.key)
    async with AisleClient(secured.serving.grpc_address, key=secured.key, credentials=whole) as client:
        assert (await client.recommend_items("tls", max_results=3)).items
    for partly in (tls_credentials(ca=ca), tls_credentials(certificate=files.certificate, key=files.key)):
        async with AisleClient(secured.serving.grpc_address, key=secured.key, credentials=partly, backoff=Backoff(attempts=1)) as client:
            with pytest.raises(UnavailableError):
                await client.recommend_items("tls", timeout_s=20)


@pytest.mark.parametrize("wrong", ["missing", "no PEM", "other key", "certificate alone"])
def test_unfit_files_are_named(secured: Secured, tmp_path: Path, wrong: str) -> None:
    """A file that is missing or no PEM, a key of another certificate, and one without the other are refused before any call."""
    files, other = secured.client, secured.authority.issue("other")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    arguments, words = {
        "missing": ({"ca": tmp_path / "none.pem"}, "none.pem"),
        "no PEM": ({"ca": garbage}, "garbage.pem"),
        "other key": ({"certificate": files.certificate, "key": other.key}, "other.key"),
        "certificate alone": ({"certificate": files.certificate}, "both certificate and key"),
    }[wrong]
    with pytest.raises(ValueError, match=words):
        tls_credentials(**arguments)


def _doctors(secured: Secured, parts: Parts, tmp_path: Path, **values: str) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        cache_dir=tmp_path / "cache",
        grpc_address=f"0.0.0.0:{secured.serving.grpc_address.rpartition(':')[2]}",
        http_address=secured.serving.http_address,
        database_url=parts.database_url,
        redis_url=parts.redis_url,
        runtime="local",
        **values,
    )


async def _doors(settings: Settings) -> dict[str, Finding]:
    findings = await diagnose(settings, progress=lambda _line: None, tls=True)
    return {
        one.check: one for one in findings if one.check in {"tls certificate", "grpc door", "http door", "grpc address", "http address"}
    }


async def test_the_doctor_asks_a_server_by_tls(secured: Secured, parts: Parts, tmp_path: Path) -> None:
    """It finds both doors serving, their addresses rightly in use, and a certificate that ends tomorrow; each missing file is a fault."""
    ca = {"tls_ca": str(secured.authority.certificate)}
    own = {"tls_client_certificate": str(secured.client.certificate), "tls_client_key": str(secured.client.key)}
    found = await _doors(_doctors(secured, parts, tmp_path, **ca, **own))
    assert {name: one.status for name, one in found.items()} == {
        "grpc address": "ok", "http address": "ok", "tls certificate": "note", "grpc door": "ok", "http door": "ok",
    }  # fmt: skip
    assert "localhost, 127.0.0.1, good for 1 days" in found["tls certificate"].detail
    assert "SERVING over TLS" in found["grpc door"].detail
    for files in (ca, own):
        found = await _doors(_doctors(secured, parts, tmp_path, **files))
        assert [found[name].status for name in ("grpc door", "http door")] == ["fault"] * 2
        assert all("--tls-ca" in found[name].mend for name in ("grpc door", "http door"))
    with pytest.raises(FailedPreconditionError, match="--tls-key"):
        await _doors(_doctors(secured, parts, tmp_path, **ca, tls_client_certificate=own["tls_client_certificate"]))


async def _load(secured: Secured, *arguments: str) -> tuple[int | None, str]:
    environment = {
        **os.environ,
        "AISLE_GRPC_ADDRESS": secured.serving.grpc_address,
        "AISLE_HTTP_ADDRESS": secured.serving.http_address,
        "AISLE_KEY": secured.key,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest", "--seconds", "3", "--users", "2", *arguments,
        cwd=_ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 150)
    return process.returncode, output.decode()


async def test_load_speaks_tls(secured: Secured, tmp_path: Path) -> None:
    """`python -m loadtest --tls-ca ...` calls both doors of the server without an error; without the files it says what to check."""
    files = ("--tls-certificate", str(secured.client.certificate), "--tls-key", str(secured.client.key))
    code, output = await _load(secured, "--tls-ca", str(secured.authority.certificate), *files)
    assert code == 0, output
    assert {"grpc", "rest"} <= set(output.split())
    code, output = await _load(secured)
    assert (code, "one with TLS wants --tls" in output) == (1, True), output
    code, output = await _load(secured, "--tls-ca", str(tmp_path / "none.pem"))
    assert (code, "none.pem" in output) == (1, True), output
