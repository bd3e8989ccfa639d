from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable

import pytest

from server.cli.training_tools import in_thread, progress_bar, progress_lines
from training.data import Progress


def test_the_last_step_is_written_every_so_often() -> None:
    """A line says what is being done and how much of it is done, also while nothing new is told."""
    lines: list[str] = []
    enough = threading.Event()

    def write(line: str) -> None:
        lines.append(line)
        if len(lines) > 3:
            enough.set()

    with progress_lines(write, every_s=0.01) as progress:
        progress("fitting on everything", 0.5)
        assert enough.wait(60)
    assert all("so far" in line for line in lines)
    assert lines[-1].startswith("fitting on everything (50%), ")


def test_a_short_run_writes_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr is no terminal, what is done within half a minute leaves nothing on stderr or stdout."""
    with progress_bar() as progress:
        progress("reading", 0.1)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal the step is shown on stderr as it is, brackets included, and nothing on stdout."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress_bar() as progress:
            progress("reading [b].csv", 0.5)
        shown = ""
        while "reading [b].csv" not in shown:  # a terminal hands over what was written piece by piece
            shown += os.read(ours, 65536).decode()
    os.close(ours)
    assert capsys.readouterr().out == ""


async def test_cancelled_work_in_a_thread_ends_at_its_next_step() -> None:
    """The thread does not outlive the task for longer than until it next tells its progress."""
    running, released, ended = threading.Event(), threading.Event(), threading.Event()

    def work(progress: Progress) -> None:
        try:
            running.set()
            released.wait(60)
            progress("next", 0.5)
            pytest.fail("work went on after it was cancelled")
        finally:
            ended.set()

    task = asyncio.create_task(in_thread(work, lambda _step, _share: None))
    await asyncio.to_thread(running.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    released.set()
    assert await asyncio.to_thread(ended.wait, 60)


async def test_work_in_a_thread_returns_and_tells() -> None:
    """Results, progress and errors come through."""
    told: list[tuple[str, float]] = []

    def work(progress: Callable[[str, float], None]) -> int:
        progress("half", 0.5)
        return 7

    assert await in_thread(work, lambda step, share: told.append((step, share))) == 7
    assert told == [("half", 0.5)]
