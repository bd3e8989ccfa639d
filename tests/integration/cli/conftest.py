import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from server.embedded import Parts

Aisle = Callable[..., "subprocess.CompletedProcess[str]"]
_ROOT = Path(__file__).parents[3]


@pytest.fixture
def environment(parts: Parts, tmp_path: Path) -> dict[str, str]:
    """An environment in which `aisle` uses the session's parts, and any folder of its own is temporary."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(
            [str(_ROOT), str(_ROOT / "proto/gen"), str(_ROOT / "clients/python"), os.environ.get("PYTHONPATH", "")]
        ),
        "AISLE_DATA_DIR": str(tmp_path / "data"),
        "AISLE_DATABASE_URL": parts.database_url,
        "AISLE_REDIS_URL": parts.redis_url,
    }


@pytest.fixture
def aisle(database: object, environment: dict[str, str], tmp_path: Path) -> Aisle:
    """Runs `aisle` with the given arguments in a temporary folder and returns what it wrote and its exit code."""
    folder = tmp_path / "cwd"
    folder.mkdir()

    def call(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "server", *arguments]
        return subprocess.run(command, cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=120, check=False)

    return call
