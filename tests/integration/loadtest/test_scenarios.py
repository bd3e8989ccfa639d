"""A scenario against a whole server: journeys walked by both doors, what is written, and the exit code."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from server.demo.generate import Demo
from tests.fixtures_server import Door

_ROOT = Path(__file__).resolve().parents[3]


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadtest", *arguments],
        cwd=_ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip


def _against(door: Door) -> dict[str, str]:
    return {"AISLE_GRPC_ADDRESS": door.serving.grpc_address, "AISLE_HTTP_ADDRESS": door.serving.http_address, "AISLE_KEY": door.key}


@pytest.fixture
def recorded(shop: Demo, tmp_path: Path) -> Path:
    """Journeys of the shop's couples as a file."""
    file = tmp_path / "journeys.jsonl"
    rows = [
        {"user_id": one.user_id, "item_id": one.item_id, "event_type": one.event_type, "occurred_at": one.occur_time.isoformat()}
        for one in shop.events[:2000]
        if one.item_id
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


async def test_a_scenario_walks_journeys_by_both_doors_and_leaves_a_report(door: Door, recorded: Path, tmp_path: Path) -> None:
    """`mixed` over recorded journeys calls both doors without an error, prints one line, and writes a page and a picture; exit 0."""
    arguments = (
        "--scenario",
        "mixed",
        "--seconds",
        "16",
        "--users",
        "8",
        "--journeys",
        str(recorded),
        "--report",
        str(tmp_path / "report"),
    )
    done = await asyncio.to_thread(_run, *arguments, **_against(door))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mixed: " in done.stdout
    assert " 0 failed" in done.stdout
    assert {"grpc", "rest"} <= set(done.stdout.split())
    assert "GeneratePersonalization" in (tmp_path / "report" / "report.html").read_text()
    assert ET.parse(tmp_path / "report" / "latency.svg").getroot().tag.endswith("svg")


async def test_a_crossed_threshold_is_said_and_exits_1(door: Door, recorded: Path, tmp_path: Path) -> None:
    """A p95 that no server can hold is told with both figures, and the command fails."""
    arguments = ("--scenario", "steady", "--seconds", "4", "--users", "2", "--p95-ms", "0.001", "--p99-ms", "100000")
    report = ("--journeys", str(recorded), "--report", str(tmp_path))
    done = await asyncio.to_thread(_run, *arguments, *report, **_against(door))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "threshold crossed: p95 was" in done.stdout
    assert "at most 0 ms is allowed" in done.stdout


def test_what_only_scenarios_take_is_refused_without_one() -> None:
    """A threshold without a scenario would judge nothing, so it is refused with its name."""
    done = _run("--p95-ms", "5")
    assert done.returncode == 2
    assert "--p95-ms needs --scenario" in done.stderr
