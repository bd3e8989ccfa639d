"""Processes and figures of a measurement."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

PARTS = ("server", "triton", "redis", "postgres")
_SETTLE_S = 0.7
"""What a call leaves behind, such as its decision's way to the database, is waited for and counted as its own."""


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement."""

    rps: float
    """Answers a second; refused calls are none."""
    p50_ms: float
    cpu_us: float
    """User and system time of the server's process tree for each answer, in microseconds."""
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    refused: float = 0.0
    """Share of the calls that were answered RESOURCE_EXHAUSTED, in [0, 1]."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """`cpu_us` by part of `PARTS`; empty where it is one process."""


def listening_process(address: str) -> psutil.Process:
    """Returns the process that listens on HOST:PORT on this machine.

    Raises:
        BenchError: Nobody does, or the process belongs to another user.
    """
    port = int(address.rpartition(":")[2])
    for process in psutil.process_iter():
        try:
            if any(one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in process.net_connections("tcp")):
                return process
        except psutil.Error:
            continue
    raise BenchError(f"no process of this user listens on {address}; start the server with `make up`, or set AISLE_GRPC_ADDRESS")


def cpu_s(root: psutil.Process) -> dict[str, float]:
    """Returns the time that a process and its descendants have used, in seconds, by part, with those that have ended since."""
    total = dict.fromkeys(PARTS, 0.0)
    for process in [root, *root.children(recursive=True)]:
        try:
            name, times = process.name(), process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        part = next((one for one in PARTS[1:] if one in name), "server")
        total[part] += times.user + times.system + times.children_user + times.children_system  # the latter of children that have ended
    return total


def _both(server: psutil.Process, between: psutil.Process | None) -> dict[str, float]:
    spent = cpu_s(server)
    if between is not None:
        spent["server"] += total_cpu_s(between)
    return spent


def total_cpu_s(root: psutil.Process) -> float:
    """Returns the sum of `cpu_s` over the parts."""
    return sum(cpu_s(root).values())


def child(module: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a module of this package prints for a job, run in a process of its own.

    Raises:
        BenchError: It failed, or some of its calls did.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"loadtest.bench.{module}"], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"{module} failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout)
    if figures.get("errors"):
        raise BenchError(f"{module} failed: {figures['errors']}")
    return figures


def calls(
    address: str,
    bodies: Sequence[bytes],
    *,
    server: psutil.Process,
    in_flight: int,
    seconds: float,
    method: str = "",
    paths: Sequence[str] = (),
    metadata: Sequence[tuple[str, str]] = (),
    rate: float = 0.0,
    once: bool = False,
    between: psutil.Process | None = None,
) -> Figures:
    """Measures a method of gRPC, or HTTP's POST to `paths`, one a body. The server's idle time around the calls is counted too.

    Args:
        address: HOST:PORT.
        bodies: Sent in turn.
        server: Root of the processes whose time counts.
        in_flight: Calls at once, at most.
        seconds: How long.
        method: gRPC's, with slashes; empty for HTTP.
        paths: HTTP's.
        metadata: Sent with each call.
        rate: Calls a second of an open loop; 0: the loop is closed.
        once: Whether to end when each body was sent, if that is before the time is over.
        between: Root of the processes at `address`, where these stand before the server's; their time counts, too, as the server's.

    Raises:
        BenchError: A call failed, but for those refused.
    """
    job: dict[str, Any] = {
        "address": address,
        "door": "http" if paths else "grpc",
        "method": method,
        "paths": paths,
        "metadata": metadata,
        "bodies": [base64.b64encode(body).decode() for body in bodies],
        "in_flight": in_flight,
        "seconds": seconds,
        "rate": rate,
        "once": once,
    }
    before = _both(server, between)
    found = child("client", job)
    time.sleep(_SETTLE_S)
    after = _both(server, between)
    if not found["count"]:
        raise BenchError(f"{method or paths[0]} answered nothing in {seconds} s")
    parts = {part: (after[part] - before[part]) / found["count"] * 1e6 for part in PARTS}
    return Figures(
        rps=found["count"] / found["wall_s"],
        p50_ms=found["p50_ms"],
        cpu_us=sum(parts.values()),
        p95_ms=found["p95_ms"],
        p99_ms=found["p99_ms"],
        refused=found["refused"] / (found["count"] + found["refused"]),
        parts=parts,
    )
