from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.cli.evaluation import evaluate


def _events(path: Path, steps: range) -> Path:
    rows = [f"u{user},i{(user + step) % 6},rate,{100 * step + user},{step}" for user in range(12) for step in steps]
    path.write_text("\n".join(["user_id,item_id,event_type,occurred_at,value", *rows]), encoding="utf-8")
    return path


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])


def test_one_file_of_events_is_cut_at_a_moment(tmp_path: Path) -> None:
    """Nothing has to be cut by hand: 80 % by time are fitted, and the report is written where asked."""
    folder = tmp_path / "reports" / "mine"
    found = _run("--events", _events(tmp_path / "all.csv", range(5)), "--min-value", "4", "--report", folder, "--json")
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    assert (result["events"], result["users"]) == (48, 12)
    report = json.loads((folder / "report.json").read_bytes())
    assert report["results"]["aisle"]["ndcg@10"] == result["results"]["aisle"]["ndcg@10"]
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--train FILE and --test FILE"),
        (["--train"], "--train FILE and --test FILE"),
        (["--train", "--test", "--min-value"], "--min-value"),
        (["--events", "--test"], "leave out"),
    ],
)
def test_files_that_do_not_go_together_are_refused(tmp_path: Path, given: list[str], message: str) -> None:
    """The error says which to give."""
    path = _events(tmp_path / "all.csv", range(5))
    found = _run(*(part for name in given for part in (name, "4" if name == "--min-value" else path)))
    assert found.exit_code == 2
    assert message in found.output
