from __future__ import annotations

from pathlib import Path

import pytest

from server.errors import InvalidFieldError
from training.splits import read_split_by_time


def _file(folder: Path, rows: list[tuple[str, str, int, str]]) -> Path:
    path = folder / "events.csv"
    lines = [f"{user},{item},rate,{time},{value}" for user, item, time, value in rows]
    path.write_text("\n".join(["user_id,item_id,event_type,occurred_at,value", *lines]), encoding="utf-8")
    return path


def _quiet(_step: str, _share: float) -> None:
    pass


def test_one_moment_cuts_all_users(tmp_path: Path) -> None:
    """The first share by time is fitted, whatever its value; of the rest only what is valued enough is asked for."""
    path = _file(tmp_path, [("v", "d", 90, "5"), ("u", "a", 10, "1"), ("u", "b", 20, "5"), ("v", "c", 80, "3"), ("u", "e", 70, "4")])
    train, test = read_split_by_time(path, 0.6, min_value=4, progress=_quiet)
    assert (train.items, test.items) == (("a", "b", "e"), ("d",))
    _, everything = read_split_by_time(path, 0.6, min_value=None, progress=_quiet)
    assert everything.items == ("d", "c")


def test_events_of_one_second_are_not_parted(tmp_path: Path) -> None:
    """What shares the time at the cut comes after it."""
    train, test = read_split_by_time(
        _file(tmp_path, [("u", name, time, "1") for name, time in zip("abcd", (1, 2, 2, 2), strict=True)]),
        0.8,
        min_value=None,
        progress=_quiet,
    )
    assert (train.items, test.items) == (("a",), ("b", "c", "d"))


@pytest.mark.parametrize(
    ("rows", "least", "field"),
    [
        pytest.param([], None, "events", id="no events"),
        pytest.param([("u", "a", 1, "1"), ("v", "b", 1, "1")], None, "occurred_at", id="one time"),
        pytest.param([("u", "a", 1, "5"), ("v", "b", 2, "3")], 4.0, "value", id="nothing valued enough"),
        pytest.param([("u", "a", 1, "5"), ("v", "b", 2, "good")], 4.0, "value", id="no number"),
    ],
)
def test_files_that_cannot_be_cut_are_refused(
    tmp_path: Path, rows: list[tuple[str, str, int, str]], least: float | None, field: str
) -> None:
    """The error names the field."""
    with pytest.raises(InvalidFieldError, match=field):
        read_split_by_time(_file(tmp_path, rows), 0.8, min_value=least, progress=_quiet)
