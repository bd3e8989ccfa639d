from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.embedded.hosting import Host, StartHost, ready_host, start_process


@pytest.fixture
def start_host() -> Iterator[StartHost]:
    """Starts a parent of parts on a folder. Whatever still runs after the test is ended."""
    started: list[subprocess.Popen[str]] = []
    hosts: list[Host] = []

    def start(data_dir: Path, **options: object) -> Host:
        process = start_process(data_dir, options)
        started.append(process)
        host = ready_host(process)
        hosts.append(host)
        return host

    yield start
    for process in started:
        process.kill()
        process.communicate()
    for host in hosts:
        host.survivors()


@pytest.fixture(scope="module")
def data_dir(scratch: str) -> Iterator[Path]:
    """A folder with a short path for one module's instances, one after the other."""
    with tempfile.TemporaryDirectory(prefix="aisle-t-", dir=scratch) as folder:
        yield Path(folder) / "data"
