"""The tool that brings faults about: two of them for moments, on parts and a server of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]


def test_two_faults_are_run_and_their_rows_written_into_the_page(tmp_path: Path) -> None:
    """With Redis hung, then Triton killed, nothing acknowledged is lost; the page gets both rows and keeps its others."""
    page = tmp_path / "page.md"
    page.write_text("# Faults\n\n<!-- chaos: begin -->\n| redis full | kept |\n<!-- chaos: end -->\n\nAfter it.\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen")])}
    command = [sys.executable, "-m", "loadtest.chaos", "--only", "redis paused", "triton killed"]
    done = subprocess.run(
        [*command, "--seconds", "2", "--before", "2", "--callers", "4", "--docs", str(page), "--state", str(tmp_path / "state.json")],
        cwd=_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    named = {row[0]: row for row in rows}
    assert list(named) == ["fault", "triton killed", "redis paused", "redis full"]
    for name in ("triton killed", "redis paused"):
        row = dict(zip(named["fault"], named[name], strict=True))
        assert int(row["reads"]) > 0
        assert int(row["acknowledged"]) > 0
        assert (row["lost"], row["doubled"]) == ("0", "0")
        assert re.fullmatch(r"\d+\.\d s", row["well again after"])
    assert text.endswith("<!-- chaos: end -->\n\nAfter it.\n")
    assert not (tmp_path / "state.json").exists()
