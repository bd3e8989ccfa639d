"""Fixtures of the whole suite. Parts are real: the wheels' PostgreSQL, Redis and Triton, one set a test session."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper

from server.embedded import Parts, running_parts

# A busy machine is slow, not wrong.
settings.register_profile("aisle", deadline=None)
settings.load_profile("aisle")

# A suite that a shell runs in the background inherits an ignored SIGINT, and so would the processes that tests start to interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.fixtures_store", "tests.fixtures_server"]


@pytest.fixture(scope="session")
def scratch() -> str:
    """Where servers under test keep their state: in memory where there is room and programs may run, as syncing is free there."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30 and not os.statvfs(memory).f_flag & os.ST_NOEXEC:
        return str(memory)
    return "/tmp"


@pytest.fixture(scope="session")
def short_dir(scratch: str) -> Iterator[Path]:
    """A folder with a short path, so that sockets lie inside it."""
    folder = Path(tempfile.mkdtemp(prefix="aisle-t-", dir=scratch))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def parts(short_dir: Path) -> AsyncIterator[Parts]:
    """A running database `aisle` (empty: migrate it, or make your own database) and Redis."""
    async with running_parts(
        data_dir=short_dir / "data", database=True, redis=True, triton=False, model_files={}, model_repository=short_dir
    ) as running:
        yield running


@pytest.fixture(scope="session")
def doubler_models(short_dir: Path) -> tuple[Path, dict[str, Path]]:
    """A Triton repository of one model and its built file: `doubler`, float32 `x` (-1, 3) -> `y` = 2x."""
    shape = ["batch", 3]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubler",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    built = short_dir / "doubler.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), built)
    configuration = short_dir / "repository" / "doubler" / "config.pbtxt"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(
        'name: "doubler"\nbackend: "onnxruntime"\nmax_batch_size: 0\n'
        'input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] } ]\n'
        'output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, 3 ] } ]\n'
        "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
    )
    return short_dir / "repository", {"doubler": built}


@pytest.fixture(scope="session")
async def parts_with_triton(parts: Parts, short_dir: Path, doubler_models: tuple[Path, dict[str, Path]]) -> AsyncIterator[Parts]:
    """`parts` and a Triton that starts with `doubler`; load what else a test needs by the load API."""
    repository, files = doubler_models
    async with running_parts(
        data_dir=short_dir / "triton", database=False, redis=False, triton=True, model_files=files, model_repository=repository
    ) as running:
        assert running.triton_url, running.notes
        yield replace(parts, triton_url=running.triton_url, triton_repository=running.triton_repository)
