"""The load tools, against the echo server and against nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench.__main__ import _echo_server
from loadtest.bench.echo import METHOD
from loadtest.bench.measure import BenchError, calls, listening_process

_ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets child processes import what the tests can."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen")]))


def test_the_closed_loop_counts_answers_time_and_the_servers_cpu() -> None:
    """Against the echo server every figure is there and positive, and the process that listens is found by its port."""
    with _echo_server() as (address, process):
        assert listening_process(address).pid == process.pid
        found = calls(address, METHOD, [b"a", b"b"], server=process, in_flight=4, seconds=0.5)
    assert min(found.rps, found.p50_ms, found.cpu_us) > 0


def test_failing_calls_stop_the_benchmark() -> None:
    """A target that answers no call is an error, not a rate."""
    with _echo_server() as (_, process), pytest.raises(BenchError, match="closed_loop failed"):
        calls("127.0.0.1:9", METHOD, [b"a"], server=process, in_flight=1, seconds=0.1)


def test_a_missing_server_is_named() -> None:
    """Where nobody listens, the benchmark says on which address and what to do."""
    with pytest.raises(BenchError, match=r"listens on 127\.0\.0\.1:9; start the server"):
        listening_process("127.0.0.1:9")


def test_load_without_a_server_exits_1_and_says_what_to_start() -> None:
    """`python -m loadtest` against nobody names the address and the command, and fails."""
    environment = os.environ | {"AISLE_GRPC_ADDRESS": "127.0.0.1:9", "AISLE_HTTP_ADDRESS": "127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "--seconds", "2", "--users", "2"],
        cwd=_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no answer at 127.0.0.1:9" in done.stderr
    assert "make up" in done.stderr
