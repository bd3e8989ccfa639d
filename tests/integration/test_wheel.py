"""The wheel holds all that the server needs, apart from this checkout."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from server.embedded import Parts
from server.inference import BuiltEncoder

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = {
    "server": _ROOT / "server",
    "training": _ROOT / "training",
    "aisle": _ROOT / "proto" / "gen" / "aisle",
    "buf": _ROOT / "proto" / "gen" / "buf",
    "aisle_client": _ROOT / "clients" / "python" / "aisle_client",
    "model_repository": _ROOT / "model_repository",
}
"""Folder in the wheel -> where it stands here."""

_MODELS = (
    "from server.settings import Settings; print(*sorted(path.parent.name for path in Settings().model_repository.glob('*/config.pbtxt')))"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel would install."""
    pytest.importorskip("hatchling", reason="the extra `test` is not installed as it is now")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=_ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


def _run(installed: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts Python with the unpacked wheel, away from this checkout."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_file_of_the_packages_is_in_the_wheel(installed: Path) -> None:
    """Templates, migrations, backends, descriptors, model configurations: what stands in a package here stands in it there."""
    for name, source in _PACKAGES.items():
        here = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and path.suffix not in {".pyc", ".onnx"}}
        assert here - {path.relative_to(installed / name) for path in (installed / name).rglob("*")} == set()


def test_the_installed_settings_find_the_model_repository(installed: Path) -> None:
    """Where no checkout is near, the shipped configurations are those of the wheel."""
    output, errors = _run(installed, "-c", _MODELS).communicate()
    assert output.split() == ["ranker", "sequence_encoder", "text_encoder"], errors


async def test_an_installed_server_migrates_and_serves(installed: Path, parts: Parts, encoder: BuiltEncoder) -> None:
    """The unpacked wheel migrates a database, answers REST and shows its pages, and ends with 0."""
    environment = {
        "AISLE_DATABASE_URL": parts.database_url,
        "AISLE_REDIS_URL": parts.redis_url,
        "AISLE_RUNTIME": "local",
        "AISLE_GRPC_ADDRESS": "127.0.0.1:0",
        "AISLE_HTTP_ADDRESS": "127.0.0.1:0",
        "AISLE_DATA_DIR": str(installed.parent / "data"),
    }
    _, errors = await asyncio.to_thread(_run(installed, "-m", "server", "migrate", **environment).communicate)
    server = _run(installed, "-m", "server", "serve", **environment)
    try:
        assert server.stdout is not None
        ready = await asyncio.to_thread(server.stdout.readline)
        assert ready.startswith("aisle ready"), errors
        async with httpx.AsyncClient(base_url=ready.split("http=")[1].strip(), timeout=30) as client:
            for path in ("/healthz/ready", "/docs", "/openapi.json", "/"):
                assert (await client.get(path)).status_code == 200, path
        server.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 60) == 0
    finally:
        server.kill()
        await asyncio.to_thread(server.communicate)
