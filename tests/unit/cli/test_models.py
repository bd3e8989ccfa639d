"""`aisle models`: build and list, by the command itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli import group
from server.errors import InvalidFieldError
from tests.model_factories import tiny_bert


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Runs the command with its own cache."""
    monkeypatch.setenv("AISLE_CACHE_DIR", str(tmp_path / "cache"))
    return CliRunner()


def test_build_prints_the_folder_and_list_shows_it(runner: CliRunner, tmp_path: Path) -> None:
    """What was built is listed with its version and state, for people and as JSON; a damaged one says so."""
    source = tiny_bert(tmp_path / "tiny")
    built = runner.invoke(group, ["models", "build", "--from", str(source)], catch_exceptions=False)
    assert built.exit_code == 0
    folder = Path(built.stdout.strip())
    assert (folder / "model.onnx").is_file()
    listed = runner.invoke(group, ["models", "list", "--json"], catch_exceptions=False)
    assert [(row["version"], row["state"], row["max_tokens"]) for row in json.loads(listed.stdout)] == [(folder.name, "ok", 48)]
    (folder / "tokenizer.json").write_text("{}")
    assert "does not match its checksum" in runner.invoke(group, ["models", "list"], catch_exceptions=False).stdout


def test_list_says_how_to_build_the_first(runner: CliRunner) -> None:
    """An empty cache is no error."""
    result = runner.invoke(group, ["models", "list"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "aisle models build" in result.stdout


def test_build_refuses_a_folder_without_weights(runner: CliRunner, tmp_path: Path) -> None:
    """The error is one of ours, which the command prints as one line."""
    with pytest.raises(InvalidFieldError, match=r"model\.safetensors"):
        runner.invoke(group, ["models", "build", "--from", str(tmp_path)], catch_exceptions=False)
