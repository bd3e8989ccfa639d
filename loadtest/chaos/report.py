"""The table of faults, on the screen and in the document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from loadtest.chaos.measure import Result

BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
_HEADER = (
    "| fault | how | reads | failed | writes | refused | rungs | p95 | well again after | acknowledged | lost | doubled |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)
_ROW = re.compile(r"^\| (?P<name>[^|]+) \|")


def row(result: Result) -> str:
    """Returns a result as a row of Markdown."""
    if result.skipped:
        return f"| {result.fault} | {result.what} | not run: {result.skipped} | | | | | | | | | |"
    recovery = "no" if result.recovery_s is None else f"{result.recovery_s:.1f} s"
    lost = f"{result.lost}" + (f" (the flush deleted {result.deleted})" if result.deleted else "")
    cells = [
        result.fault,
        result.what,
        f"{result.reads}",
        f"{result.failed_reads}",
        f"{result.writes}",
        f"{result.refused_writes}",
        ", ".join(f"{rung} {count}" for rung, count in result.rungs.items()),
        f"{result.p95_ratio:.1f}x",
        recovery,
        f"{result.acknowledged}",
        lost,
        f"{result.doubled}",
    ]
    return f"| {' | '.join(cells)} |"


def rewrite(page: Path, results: Sequence[Result], *, order: Sequence[str], note: str) -> None:
    """Puts rows between the markers of a page. Rows of faults that were not run stay as they stand.

    Raises:
        ValueError: The page has no markers.
    """
    text = page.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    old, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN} and {END}; put them where the table is to stand")
    rows = {found["name"]: line for line in old.splitlines() if (found := _ROW.match(line)) and found["name"] in order}
    rows |= {result.fault: row(result) for result in results}
    table = [*_HEADER, *(rows[name] for name in order if name in rows)]
    page.write_text("\n".join([head.rstrip("\n"), "", BEGIN, note, "", *table, "", END]) + tail, encoding="utf-8")
