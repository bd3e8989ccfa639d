"""The table of a run, its ratios, its place in loadtest/README.md, and its picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from loadtest.bench.case import IN_FLIGHT, Case
from loadtest.bench.measure import PARTS, Figures
from training.report.figures import SERIES, Value, bars

Rounds = Sequence[Mapping[str, Figures]]

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
"""The lines between which the README holds the last table."""

HEADER = ("case", "per second", "p50, p95, p99 ms", "CPU us", f"of it {', '.join(PARTS)}", "beside", "rate", "CPU", "p95", "target")


def _median(rounds: Rounds, pick: Callable[[Mapping[str, Figures]], float]) -> float:
    return statistics.median(pick(found) for found in rounds)


def ratios(case: Case, rounds: Rounds) -> tuple[float, float, float]:
    """Returns the case's rate, processor time for an answer and p95 beside those of the case it is compared with.

    Each is the median over rounds of the ratio within a round; 0 where there is nothing to compare.
    """
    name, limit = case.name, case.beside
    if not limit or limit not in rounds[0]:
        return 0.0, 0.0, 0.0

    def of(pick: Callable[[Figures], float]) -> float:
        return _median(rounds, lambda found: pick(found[name]) / pick(found[limit]) if pick(found[limit]) else 0.0)

    return of(lambda one: one.rps), of(lambda one: one.cpu_us), of(lambda one: one.p95_ms)


def _target(case: Case, found: tuple[float, float, float]) -> str:
    """Returns what is wanted of a case, and whether the medians reach it."""
    rate, cpu, p95 = found
    if not any(found):
        return ""
    wanted = []
    if case.rate_at_least:
        wanted.append((f"rate >= {case.rate_at_least:g}", rate >= case.rate_at_least))
    if case.cpu_at_most:
        wanted.append((f"CPU <= {case.cpu_at_most:g}", cpu <= case.cpu_at_most))
    if case.p95_at_most:
        wanted.append((f"p95 <= {case.p95_at_most:g}", p95 <= case.p95_at_most))
    return "; ".join(f"{text}: {'met' if met else 'missed'}" for text, met in wanted)


def rows(cases: Sequence[Case], rounds: Rounds) -> list[tuple[str, ...]]:
    """Returns the table's rows, as `HEADER`."""
    result = []
    for case in cases:
        p50, p95, p99, rps, cpu, refused = (
            _median(rounds, lambda found, name=case.name, field=field: float(getattr(found[name], field)))  # type: ignore[misc]
            for field in ("p50_ms", "p95_ms", "p99_ms", "rps", "cpu_us", "refused")
        )
        times = f"{p50:.2f}" + (f", {p95:.1f}, {p99:.1f}" if p99 else "")
        parts = [_median(rounds, lambda found, name=case.name, part=part: found[name].parts.get(part, 0.0)) for part in PARTS]  # type: ignore[misc]
        ratio = ratios(case, rounds)
        compared = [f"{one:.2f}" if one else "" for one in ratio]
        rate = f"{rps:.0f}" + (f", {refused:.0%} refused" if refused else "")
        split = ", ".join(f"{one:.0f}" for one in parts) if any(parts[1:]) else ""
        result.append((case.name, rate, times, f"{cpu:.0f}", split, case.beside if any(ratio) else "", *compared, _target(case, ratio)))
    return result


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Returns the table in Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_readme(path: Path, content: str) -> None:
    """Puts the content between the README's two lines.

    Raises:
        ValueError: It lacks them.
    """
    write_between(path, BEGIN, END, content)


def write_between(path: Path, begin: str, end: str, content: str) -> None:
    """Puts the content between two lines of a document.

    Raises:
        ValueError: It lacks them.
    """
    before, begun, rest = path.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"{path} lacks the lines {begin} and {end}")
    path.write_text(f"{before}{begin}\n\n{content}\n{end}{after}")


def picture(cases: Sequence[Case], rounds: Rounds) -> str:
    """Returns bars of the ratio of processor time, with the least and the greatest of the rounds, as an SVG file of its own.

    Shows the cases that were measured at every number of calls in flight.
    """
    measured = {case.name: case for case in cases if case.beside and case.beside in rounds[0]}
    kinds = [name.removesuffix(f" @{IN_FLIGHT[0]}") for name in measured if name.endswith(f" @{IN_FLIGHT[0]}")]
    series: dict[str, list[Value | None]] = {}
    for kind in [kind for kind in kinds if all(f"{kind} @{n}" in measured for n in IN_FLIGHT)][:SERIES]:
        series[kind] = []
        for name in (f"{kind} @{n}" for n in IN_FLIGHT):
            each = [found[name].cpu_us / found[measured[name].beside].cpu_us for found in rounds]
            series[kind].append((statistics.median(each), min(each), max(each)))
    groups = [str(n) for n in IN_FLIGHT]
    return bars("bench-cpu", "Processor time beside its limit", "calls in flight", "times the limit's", groups, series).standalone()
