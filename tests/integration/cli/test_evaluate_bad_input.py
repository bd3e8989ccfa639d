"""`aisle evaluate` as a process: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.synthetic import two_camps

pytestmark = pytest.mark.timeout(600)
_ROOT = Path(__file__).parents[3]
_HEADER = "user_id,item_id,event_type,occurred_at\n"
_PATIENCE_S = 500


def _events(path: Path, histories: dict[str, list[str]], *, start_s: int = 0) -> Path:
    rows = (f"{user},{item},click,{start_s + 3600 * step}\n" for user, items in histories.items() for step, item in enumerate(items))
    path.write_text(_HEADER + "".join(rows))
    return path


def _command(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "proto/gen"), os.environ.get("PYTHONPATH", "")]),
        "AISLE_CACHE_DIR": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return {"args": [sys.executable, "-m", "server", "evaluate", *map(str, arguments)], "env": environment, "cwd": folder, "text": True}


def _evaluate(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**_command(folder, *arguments), capture_output=True, timeout=_PATIENCE_S, check=False)


def _without_progress(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line and not line.endswith(" so far")]


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        pytest.param("", 1, "has no column user_id", id="empty"),
        pytest.param(_HEADER, 1, "train: holds no interactions", id="only a header"),
        pytest.param(f"{_HEADER}u,a,click,1714521600000\n", 1, "divide milliseconds by 1000", id="milliseconds"),
        pytest.param(None, 2, "does not exist", id="no file"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_and_an_exit_code(tmp_path: Path, content: str | None, code: int, says: str) -> None:
    """1 for what the file says, 2 for an option; nothing on stdout, no traceback."""
    train, test = tmp_path / "train.csv", _events(tmp_path / "test.csv", {"u": ["b"]})
    if content is not None:
        train.write_text(content)
    done = _evaluate(tmp_path, "--train", train, "--test", test)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert code == 2 or len(_without_progress(done.stderr)) == 1


def test_a_tiny_file_gives_a_table_and_notes(tmp_path: Path) -> None:
    """One user and one event are enough; what is off is said on stdout with the result, and stderr stays empty."""
    train, test = _events(tmp_path / "train.csv", {"u": ["a"]}), _events(tmp_path / "test.csv", {"v": ["a"]})
    done = _evaluate(tmp_path, "--train", train, "--test", test)
    assert (done.returncode, _without_progress(done.stderr)) == (0, [])
    assert "note: test users without fitted rows: 1 of 1; they get the popular list" in done.stdout
    assert "the sequential view is off" in done.stdout


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    """Ctrl-C ends it with one line; the second run finishes from the checkpoint and takes it away."""
    camps = two_camps(users=100, length=5)
    train = _events(tmp_path / "train.csv", {user: items[:-1] for user, items in camps.items()})
    test = _events(tmp_path / "test.csv", {user: items[-1:] for user, items in camps.items()}, start_s=10**6)
    arguments = ("--train", train, "--test", test, "--metrics", "hr@1", "--json")
    process = subprocess.Popen(**_command(tmp_path, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    give_up = time.monotonic() + _PATIENCE_S
    while not (checkpoints := list((tmp_path / "cache/training").glob("*.pt"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=_PATIENCE_S)
    assert (process.returncode, out, _without_progress(err)) == (1, "", ["Aborted!"])
    assert checkpoints[0].exists()

    again = _evaluate(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr
    assert _without_progress(again.stderr) == []
    assert not list((tmp_path / "cache/training").iterdir())
    assert json.loads(again.stdout)["results"]["aisle"]["hr@1"]["value"] > 0.9
