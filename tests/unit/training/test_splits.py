from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.errors import InvalidFieldError
from training.cases import draw_cases, few_of_each
from training.data import Vocabulary, raw_events
from training.splits import held_out, read_split_by_time


def _file(folder: Path, rows: list[tuple[str, str, int, str]]) -> Path:
    path = folder / "events.csv"
    lines = [f"{user},{item},rate,{time},{value}" for user, item, time, value in rows]
    path.write_text("\n".join(["user_id,item_id,event_type,occurred_at,value", *lines]), encoding="utf-8")
    return path


def _quiet(_step: str, _share: float) -> None:
    pass


def test_one_moment_cuts_all_users(tmp_path: Path) -> None:
    """The first share by time is fitted, what is valued less counting nothing; of the rest only what is valued enough is asked for."""
    path = _file(tmp_path, [("v", "d", 90, "5"), ("u", "a", 10, "1"), ("u", "b", 20, "5"), ("v", "c", 80, "3"), ("u", "e", 70, "4")])
    train, test = read_split_by_time(path, 0.6, min_value=4, progress=_quiet)
    assert (train.items, test.items) == (("a", "b", "e"), ("d",))
    assert train.kinds == ("dismiss", "rate", "rate")
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


def _held_out(rows: list[tuple[str, str, str, float]]) -> tuple[list[tuple[str, str, float]], list[tuple[str, str, float]]]:
    events = raw_events(rows)
    vocabulary = Vocabulary.of([events])
    interactions = vocabulary.encode(events)
    parts = [interactions.select(part) for part in held_out(interactions)]
    asked, fitted = (
        [
            (vocabulary.user_ids[user], vocabulary.item_ids[item], time)
            for user, item, time in zip(part.users.tolist(), part.items.tolist(), part.times.tolist(), strict=True)
        ]
        for part in parts
    )
    return asked, fitted


def test_the_newest_fifth_chooses() -> None:
    """Where times are real, what is asked lies after everything that is fitted, and what counts nothing is neither."""
    rows = [(f"u{user:02d}", f"i{step}", "click", user + 100.0 * step) for user in range(60) for step in range(10)]
    rows += [("u00", "i10", "hide", 960.0)]
    asked, fitted = _held_out(rows)
    assert min(time for *_, time in asked) > max(time for *_, time in fitted)
    assert len(fitted) == 480
    assert len(asked) == 120


@pytest.mark.parametrize(
    ("users", "offset"),
    [pytest.param(60, 0.0, id="made-up times"), pytest.param(40, 1.0, id="too few users")],
)
def test_else_the_last_of_each_user_chooses(users: int, offset: float) -> None:
    """Where times cannot be compared, or too few users could be asked, each user's last interaction chooses."""
    rows = [(f"u{user:02d}", f"i{step}", "click", user * offset + 100.0 * step) for user in range(users) for step in range(10)]
    asked, fitted = _held_out(rows)
    assert {item for _, item, _ in asked} == {"i9"}
    assert (len(asked), len(fitted)) == (users, 9 * users)


def test_few_cases_are_drawn_of_a_user() -> None:
    """However much one user did, no more than eight cases are of that user, and none of an item that was known."""
    rows = [("busy", f"i{step:03d}", "click", float(step)) for step in range(100)] + [
        ("calm", f"i{step}", "click", 0.5 + step) for step in range(9)
    ]
    events = raw_events(rows)
    interactions = Vocabulary.of([events]).encode(events)
    late = interactions.times >= 5
    chosen = draw_cases(interactions.select(~late), interactions.select(late), 1000, seed=0)
    counts = np.bincount([user for user, _ in chosen])
    assert counts.tolist() == [8, 4]
    assert len(set(chosen)) == len(chosen)


def test_the_first_of_each_are_kept_in_order() -> None:
    """Places are told apart by how often their user came before."""
    assert few_of_each(np.array([3, 1, 3, 3, 1, 2]), 2).tolist() == [True, True, True, False, True, True]
