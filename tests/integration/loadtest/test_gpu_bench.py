"""The GPU benchmark, with FAISS's flat index for the CPU in the GPU's place."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from loadtest.bench.gpu import exact_best, filled, measured, without_gpu
from server.retrieval.gpu import GpuScan

_ROOT = Path(__file__).resolve().parents[3]


def test_both_ways_are_measured_on_one_index() -> None:
    """The way with a flat scan first and the way without it each have a time, and the recall that the index promises."""
    view = filled(50_001, 16).view()
    assert view.codes is not None
    scan = GpuScan(faiss.IndexFlatIP(16))
    scan.extend(view.store.vectors.part(0, view.slots))
    flat, coded = replace(view, codes=replace(view.codes, gpu=scan)), without_gpu(view)
    assert coded.codes is not None
    assert coded.codes.gpu is None
    rng = np.random.default_rng(1)
    queries = np.stack([view.vectors(rng.integers(0, view.slots, 4)).mean(axis=0) for _ in range(8)])
    first, second = measured((flat, coded), queries, exact_best(view, queries), batch=4, rounds=2)
    assert first.recall == 1
    assert second.recall >= 0.9  # eight queries; calibration promises a mean
    assert min(first.p50_ms, second.p50_ms) > 0


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="there is a GPU here")
def test_without_a_gpu_the_benchmark_says_so() -> None:
    """Where FAISS can use no GPU, it ends with the reason and no table."""
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.bench.gpu"],
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen")])},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "FAISS can use no NVIDIA GPU here" in done.stderr
