"""`python -m loadtest.chaos`: one fault after another under a steady load, against a server of its own.

Nothing needs to run: parts, tenant and servers are made in a temporary folder and on free ports, and removed at the end. Exit 1
when an acknowledged event was lost or doubled, when more calls failed than a fault may cost, or when all was not well again.
Interrupted with Ctrl-C and called again with the same numbers, it goes on after the last fault that was done.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from loadtest.chaos.faults import FAULTS
from loadtest.chaos.load import Load
from loadtest.chaos.measure import Result, measured, what
from loadtest.chaos.report import rewrite
from loadtest.chaos.stage import COUPLES, Stage, StageError, open_stage
from server.embedded.folders import private_folder
from server.errors import AisleError
from server.settings import Settings
from server.telemetry import configure_logging

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "resilience.md"
_SETTLE_S = 3.0


class _Done:
    """What an interrupted run has finished, kept in a file until a run is through."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._numbers = [arguments.seconds, arguments.before, arguments.callers, arguments.pace]
        self._path: Path = arguments.state
        private_folder(self._path.parent)
        self.results: dict[str, Result] = {}
        self.starts: dict[str, list[float]] = {}
        if not arguments.fresh and self._path.exists():
            kept = json.loads(self._path.read_text())
            if kept["numbers"] == self._numbers:
                self.results = {one["fault"]: Result(**one) for one in kept["results"]}
                self.starts = kept["starts"]

    def keep(self, result: Result) -> None:
        """Writes a result down."""
        self.results[result.fault] = result
        kept = {"numbers": self._numbers, "results": [one.to_json() for one in self.results.values()], "starts": self.starts}
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(kept))
        partial.replace(self._path)

    def forget(self) -> None:
        """Ends the run: the next begins anew."""
        self._path.unlink(missing_ok=True)


def main() -> None:
    """Runs the faults that the command line names, prints the table and writes it into the page."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), metavar="FAULT", help=f"these alone: {', '.join(map(repr, FAULTS))}")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long a fault lasts that has to be ended (default: %(default)s)")
    parser.add_argument("--before", type=float, default=6.0, help="seconds of steady state before each fault (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=8, help="concurrent callers, one in four by HTTP (default: %(default)s)")
    parser.add_argument("--pace", type=float, default=0.4, help="least seconds between two actions of a caller (default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=_PAGE, help="page whose table is rewritten (default: docs/resilience.md)")
    parser.add_argument("--state", type=Path, default=Settings().cache_dir / "chaos.json", help="where an interrupted run is kept")
    parser.add_argument("--fresh", action="store_true", help="forget what an interrupted run has done")
    arguments = parser.parse_args()
    if arguments.seconds <= 0 or arguments.before <= 0 or arguments.callers < 4 or arguments.pace < 0:
        parser.error("--seconds and --before must be above 0, --callers at least 4, --pace not negative")
    if sys.platform != "linux":
        parser.error("the embedded parts run on Linux")
    configure_logging("error")
    try:
        code = asyncio.run(_run(arguments))
    except KeyboardInterrupt:
        code = 130
    except (StageError, AisleError, ValueError) as error:
        Console(stderr=True).print(f"chaos: {error}", style="red", markup=False)
        code = 1
    sys.exit(code)


async def _run(arguments: argparse.Namespace) -> int:
    done = _Done(arguments)
    wanted = arguments.only or list(FAULTS)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("faults", total=len(wanted), completed=len([name for name in wanted if name in done.results]))
        left = [name for name in wanted if name not in done.results]
        for name in [name for name in left if FAULTS[name].skipped]:
            done.keep(Result(name, what(FAULTS[name]), skipped=FAULTS[name].skipped))
            progress.advance(task)
        runnable = [name for name in left if not FAULTS[name].skipped]
        for layout, names in itertools.groupby(runnable, key=lambda name: FAULTS[name].layout):
            async with open_stage(layout, say=lambda line: progress.update(task, description=line)) as stage:
                done.starts[f"{layout.workers * (1 + layout.apart)}"] = [stage.parts_s, stage.servers_s]
                for name in names:
                    progress.update(task, description=name)
                    done.keep(await _one(name, stage, arguments))
                    progress.advance(task)
    results = [done.results[name] for name in wanted]
    _print(results)
    note = _note(arguments, done.starts)
    rewrite(arguments.docs, results, order=list(FAULTS), note=note)
    done.forget()
    return 1 if any(result.faulty for result in results) else 0


async def _one(name: str, stage: Stage, arguments: argparse.Namespace) -> Result:
    load = Load(stage.addresses, callers=arguments.callers, pace_s=arguments.pace, couples=COUPLES, items=stage.items)
    fault = FAULTS[name](stage, load)
    await fault.prepare()
    async with load.running():
        await asyncio.sleep(_SETTLE_S)
        result = await measured(name, fault, stage, load, before_s=arguments.before, hold_s=arguments.seconds)
        await fault.settle()
        return result


def _note(arguments: argparse.Namespace, starts: dict[str, list[float]]) -> str:
    cores = len(os.sched_getaffinity(0))
    today = datetime.now(UTC).date()
    said = "; ".join(
        f"parts on an empty folder {parts:.1f} s, {count} serving processes {served:.1f} s" for count, (parts, served) in starts.items()
    )
    return (
        f"Last run {today}, {cores} cores, {arguments.callers} callers that each begin an action every {arguments.pace:g} s, faults "
        f"held for {arguments.seconds:g} s. Cold start to ready: {said or 'not measured'}."
    )


def _print(results: Sequence[Result]) -> None:
    console = Console(width=180)
    table = Table("fault", "reads", "failed", "writes", "refused", "rungs", "p95", "well again", "acknowledged", "lost", "doubled")
    for one in results:
        if one.skipped:
            table.add_row(one.fault, f"not run: {one.skipped}")
            continue
        recovery = "no" if one.recovery_s is None else f"{one.recovery_s:.1f} s"
        rungs = ", ".join(f"{rung} {count}" for rung, count in one.rungs.items())
        numbers = [one.reads, one.failed_reads, one.writes, one.refused_writes]
        lost = f"{one.lost} ({one.deleted} deleted)" if one.deleted else f"{one.lost}"
        table.add_row(
            one.fault, *map(str, numbers), rungs, f"{one.p95_ratio:.1f}x", recovery, str(one.acknowledged), lost, str(one.doubled)
        )
    console.print(table)
    for one in results:
        for error, count in one.errors.items():
            console.print(f"{one.fault}: {count} x {error}", markup=False, highlight=False)
        for line in one.faulty:
            console.print(f"{one.fault}: {line}", style="red", markup=False)


if __name__ == "__main__":
    main()
