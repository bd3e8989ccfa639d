"""A clock that jumps for one process alone."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from loadtest.chaos import clock
from loadtest.chaos.clock import MISSING, Clock
from loadtest.chaos.measure import Result
from loadtest.chaos.report import row

_TELL = """
import sys, threading, time
for _ in sys.stdin:
    began = time.monotonic()
    threading.Event().wait(0.05)
    time.sleep(0.05)
    print(time.time(), began, time.monotonic(), flush=True)
"""


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_only_the_wall_clock_of_the_process_jumps(tmp_path: Path) -> None:
    """Set an hour ahead, an hour back and right again, the process sees just that, while its monotonic clock and its waits stay right."""
    own = Clock(tmp_path / "clock")
    own.set(timedelta())
    with subprocess.Popen(
        [sys.executable, "-c", _TELL], env=own.environment(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for ahead_s in (0, 3600, -3600, 0):
            own.set(timedelta(seconds=ahead_s))
            time.sleep(2.1)
            asked = time.time(), time.monotonic()
            process.stdin.write("\n")
            process.stdin.flush()
            wall_s, began_s, ended_s = map(float, process.stdout.readline().split())
            told = time.time(), time.monotonic()
            assert asked[0] <= wall_s - ahead_s <= told[0]
            assert asked[1] <= began_s <= ended_s - 0.1 <= told[1] - 0.1
        process.stdin.close()


def test_without_the_library_the_row_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no libfaketime is installed the table has the command that installs it in the place of numbers."""
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    found = runpy.run_path(clock.__file__)
    assert found["LIBFAKETIME"] is None
    assert "not run: needs libfaketime: `apt-get install faketime` |" in row(Result("clock ahead", "", skipped=found["MISSING"]))
