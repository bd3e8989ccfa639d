"""`aisle demo generate`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from click.testing import CliRunner

from server.cli.demo import demo
from server.cli.import_rows import EventReader, item_of, user_of
from server.demo import couples_with_journeys
from server.domain import TenantId


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(demo, ["generate", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_files_are_in_the_import_formats(tmp_path: Path) -> None:
    """Three JSONL files appear, with the columns that `aisle import` reads, and no part file is left."""
    _run("--size", "3", "--vendors", "2", "--now", "2026-03-01", "--out", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.jsonl", "items.jsonl", "users.jsonl"]
    first = {path.stem: json.loads(path.read_text().splitlines()[0]) for path in tmp_path.iterdir()}
    assert {"item_id", "title", "description", "categories", "attributes", "price", "currency", "language"} <= first["items"].keys()
    assert {"user_id", "traits", "locale", "time_zone", "event_date"} == first["users"].keys()
    assert {"event_id", "user_id", "item_id", "event_type", "occurred_at", "session_id"} <= first["events"].keys()


def test_the_importer_takes_every_row_and_loses_nothing(tmp_path: Path) -> None:
    """Items, users and events that were written are read back as the values that were generated."""
    _run("--size", "3", "--vendors", "2", "--now", "2026-03-01", "--seed", "4", "--out", str(tmp_path))
    world = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.iterdir()}
    items, pairs = couples_with_journeys(3, 4, datetime(2026, 3, 1, tzinfo=UTC), vendors_a_city=2)
    assert [item_of(row) for row in world["items"]] == items
    read_event = EventReader(TenantId("demo"))
    events = [read_event(row) for row in world["events"]]
    profiles = []
    for profile, happened in pairs:
        profiles.append(profile)
        assert events[: len(happened)] == happened
        del events[: len(happened)]
    assert not events
    users = [user_of(row) for row in world["users"]]
    assert [(user.user_id, user.traits, user.locale, user.time_zone, user.event_date) for user in users] == [
        (profile.user_id, profile.traits, profile.locale, profile.time_zone, profile.event_date) for profile in profiles
    ]


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path) -> None:
    """With `--now` given, two runs write identical files."""
    for name in ("a", "b"):
        _run("--size", "2", "--vendors", "2", "--seed", "5", "--now", "2026-03-01", "--out", str(tmp_path / name))
    for name in ("items.jsonl", "users.jsonl", "events.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_that_cannot_be_written_is_named_with_a_way_out(tmp_path: Path) -> None:
    """An `--out` below a plain file fails with the path and the option to change."""
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(demo, ["generate", "--size", "1", "--out", str(tmp_path / "file" / "below")])
    assert result.exit_code == 1
    assert "choose another folder with --out" in str(result.exception)


def test_a_size_of_zero_is_wrong_usage() -> None:
    """`--size 0` exits 2, as every wrong option does."""
    assert CliRunner().invoke(demo, ["generate", "--size", "0"]).exit_code == 2
