"""The limits of the machine: raw ONNX Runtime and an empty gRPC method."""

from __future__ import annotations

import os
from functools import partial

from loadtest.bench.case import IN_FLIGHT, Case, Round
from loadtest.bench.cases.embed import texts
from loadtest.bench.echo import METHOD
from loadtest.bench.measure import Figures, calls, child
from loadtest.bench.stand import Stand

CORES = len(os.sched_getaffinity(0))


def _raw(threads: int, stand: Stand, turn: Round) -> Figures:
    """Embeds without a server, tokenizing included, 16 texts a batch; latencies are a batch's."""
    onnx, tokenizer = map(str, stand.encoder_files)
    job = {"onnx": onnx, "tokenizer": tokenizer, "texts": texts(4000, turn.salt), "threads": threads, "seconds": turn.seconds}
    found = child("raw", job)
    return Figures(found["count"] / found["wall_s"], found["p50_ms"], found["cpu_s"] / found["count"] * 1e6)


def _echo(in_flight: int, stand: Stand, turn: Round) -> Figures:
    return calls(stand.echo.grpc, [b"x" * 1024], method=METHOD, server=stand.echo.process, in_flight=in_flight, seconds=turn.seconds)


CASES = (
    *(Case(name=f"raw x{threads}", measure=partial(_raw, threads)) for threads in sorted({1, CORES})),
    *(Case(name=f"echo @{n}", measure=partial(_echo, n)) for n in IN_FLIGHT),
)
