"""Processes and figures of a measurement."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement."""

    rps: float
    p50_ms: float
    cpu_us: float
    """User and system time of the server's process tree for each answer, in microseconds."""


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


def cpu_s(root: psutil.Process) -> float:
    """Returns the time that a process and its descendants have used, in seconds. Descendants that end between two readings are lost."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _child(module: str, job: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", f"loadtest.bench.{module}"], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"{module} failed: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout)
    if figures.get("errors"):
        raise BenchError(f"{module}: {figures['errors']}")
    return figures


def raw(onnx: str, tokenizer: str, texts: Sequence[str], *, threads: int, seconds: float) -> Figures:
    """Measures raw ONNX Runtime; `p50_ms` is a batch's."""
    found = _child("raw", {"onnx": onnx, "tokenizer": tokenizer, "texts": texts, "threads": threads, "seconds": seconds})
    return Figures(found["count"] / found["wall_s"], found["p50_ms"], found["cpu_s"] / found["count"] * 1e6)


def calls(
    address: str,
    method: str,
    bodies: Sequence[bytes],
    *,
    server: psutil.Process,
    in_flight: int,
    seconds: float,
    metadata: Sequence[tuple[str, str]] = (),
) -> Figures:
    """Measures a method. The server's time while the client starts is counted too: idle, it is next to nothing.

    Raises:
        BenchError: A call failed.
    """
    job = {"address": address, "method": method, "metadata": metadata, "in_flight": in_flight, "seconds": seconds}
    job["bodies"] = [base64.b64encode(body).decode() for body in bodies]
    before = cpu_s(server)
    found = _child("closed_loop", job)
    if not found["count"]:
        raise BenchError(f"{method} answered nothing in {seconds} s")
    return Figures(found["count"] / found["wall_s"], found["p50_ms"], (cpu_s(server) - before) / found["count"] * 1e6)
