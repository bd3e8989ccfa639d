"""Tests share one event loop, whose timers go by the clock of the `time` module."""

from __future__ import annotations

import re
from pathlib import Path

_TESTS = Path(__file__).parents[1]
_REPLACED = re.compile(r"""setattr\(\s*(?:["'][\w.]*\btime\.\w+["']|time\s*,)""")


def test_no_test_replaces_the_clock_of_the_event_loop() -> None:
    """A test that needs another time gives the module under test a `time` of its own: a timer set meanwhile would fire years later."""
    replaced = [
        f"{path.relative_to(_TESTS)}: {found}"
        for path in _TESTS.rglob("*.py")
        if path.name != "test_clocks.py"
        for found in _REPLACED.findall(path.read_text())
    ]
    assert not replaced
    assert _REPLACED.search('monkeypatch.setattr("server.x.time.monotonic", clock)')
    assert not _REPLACED.search('monkeypatch.setattr("server.x.time", SimpleNamespace(monotonic=clock))')
