"""The fuzz targets hold on generated inputs, and the fuzzer itself runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import NAMES
from tests.fuzz.targets import TARGETS

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 30


def test_every_target_can_be_named() -> None:
    """The command knows the targets that there are."""
    assert set(NAMES) == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_hold_on_seeds_and_their_neighbours(name: str) -> None:
    """Seeds, arbitrary bytes, and seeds with a piece replaced break no target."""
    function, seeds = TARGETS[name]

    @settings(max_examples=150)
    @given(st.sampled_from(seeds), st.integers(0, 60), st.integers(0, 60), st.binary(max_size=12))
    def hold(seed: bytes, start: int, length: int, piece: bytes) -> None:
        function(piece)
        function(seed[:start] + piece + seed[start + length :])

    for seed in seeds:
        function(seed)
    hold()


@pytest.mark.timeout(300)
def test_the_fuzzer_finds_nothing_in_half_a_minute(tmp_path: Path) -> None:
    """Coverage-guided fuzzing of each target for 30 s, all side by side, finds nothing. `poe nightly` takes longer."""
    pytest.importorskip("atheris", reason="atheris has no wheel for this platform")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(_ROOT / part) for part in ("", "proto/gen", "clients/python"))}
    command = [sys.executable, "-m", "tests.fuzz", f"--seconds={_SECONDS}", f"--jobs={len(NAMES)}", f"--corpus={tmp_path}"]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    inputs = {line.partition(":")[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    assert inputs.keys() == set(NAMES)
    assert min(inputs.values()) > 100, inputs
