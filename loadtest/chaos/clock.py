"""A wall clock for some processes alone, which jumps while the machine's stays right."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

LIBFAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
"""What stands between a process and its clock, from Debian's package `faketime`, in the build for threads; None: not installed."""

MISSING = "" if LIBFAKETIME else "needs libfaketime: `apt-get install faketime`"
"""Why no clock can be set here; empty when it can."""

_PRELOAD = Path(__file__).parent / "preload"


class Clock:
    """The clock of processes that are started in `environment`, and of their children."""

    def __init__(self, path: Path) -> None:
        """`path`: A file that says how far the clock is ahead; `set` makes it."""
        self._path = path

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Returns an environment with this clock. The monotonic clocks and the times of files stay the machine's."""
        return {
            **base,
            "PYTHONPATH": os.pathsep.join([str(_PRELOAD), *filter(None, [base.get("PYTHONPATH")])]),
            "LD_PRELOAD": str(LIBFAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_CACHE_DURATION": "1",  # seconds; 10 if unset
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, ahead: timedelta) -> None:
        """Sets the clock that far ahead of the machine's. Each process follows within a second or two."""
        partial = self._path.with_suffix(".partial")
        partial.write_text(f"{ahead.total_seconds():+.0f}\n")
        partial.replace(self._path)  # it may be read at any moment


def sweep(pid: int) -> None:
    """Removes the shared memory of a process with such a clock, once it has ended: a server leaves without telling libfaketime."""
    for left in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        (Path("/dev/shm") / left).unlink(missing_ok=True)  # noqa: S108  # the library's names
