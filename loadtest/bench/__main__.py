"""`python -m loadtest.bench` (`poe bench`): what the server costs beside the limits of the same machine in the same minutes.

Starts a server with embedded parts of its own on free ports, a temporary data folder and the demo tenant, and measures all cases in turn
within each round, in an order that changes. Quote the ratios, not the rates. A whole run takes about 20 minutes; `--only` names a part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtest.bench.case import Case, Round
from loadtest.bench.cases import ALL
from loadtest.bench.measure import BenchError, Figures
from loadtest.bench.stand import ROOT, Stand, standing
from loadtest.bench.table import HEADER, markdown, picture, rows, write_readme
from server.cli.models import build_with_progress

README = ROOT / "loadtest" / "README.md"
PICTURE = ROOT / "loadtest" / "bench-cpu.svg"


def chosen(words: Sequence[str]) -> list[Case]:
    """Returns the cases whose names hold one of the words, and those they are compared with; all for no words.

    Raises:
        BenchError: A word names none.
    """
    for word in words:
        if not any(word.lower() in case.name.lower() for case in ALL):
            raise BenchError(f"no case has {word!r} in its name; there are: {', '.join(case.name for case in ALL)}")
    named = [case for case in ALL if not words or any(word.lower() in case.name.lower() for word in words)]
    beside = {case.beside for case in named}
    return [case for case in ALL if case in named or case.name in beside]


def _turn(seconds: float) -> Round:
    return Round(random.randrange(10**12), seconds)  # noqa: S311  # a fresh number, no secret


def _measured(stand: Stand, cases: Sequence[Case], number: int, arguments: argparse.Namespace) -> dict[str, Figures]:
    order = random.sample(list(cases), len(cases))
    title = f"Round {number + 1} of {arguments.rounds}"
    found = {case.name: case.measure(stand, _turn(arguments.seconds)) for case in track(order, title, console=Console(stderr=True))}
    return {case.name: found[case.name] for case in cases}


def _rounds(stand: Stand, cases: Sequence[Case], arguments: argparse.Namespace) -> list[dict[str, Figures]]:
    """Returns what was measured; Ctrl-C ends it, and the rounds that were whole by then count."""
    rounds: list[dict[str, Figures]] = []
    try:
        for number in range(arguments.rounds):
            rounds.append(_measured(stand, cases, number, arguments))  # noqa: PERF401  # kept when the next one is broken off
    except KeyboardInterrupt:
        if not rounds:
            raise BenchError("no round was whole when it was broken off") from None
    return rounds


def _about(arguments: argparse.Namespace, rounds: int) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[1]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Python {platform.python_version()}, "
        f"`--rounds {rounds} --seconds {arguments.seconds:g}`, client beside the server, "
        f"{load:.1f} processes ready to run in the last minutes (the bench's own included)."
    )


def main() -> None:
    """Runs the rounds, prints the table, and writes it into the README when all cases ran."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="cases with a word in their name, and those beside them")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds must be at least 1 and --seconds above 0")
    cases = chosen(arguments.only)
    encoder = build_with_progress(None, Path(os.environ.get("AISLE_CACHE_DIR", "~/.cache/aisle")).expanduser())
    with standing((encoder.onnx, encoder.tokenizer)) as stand:
        rounds = _rounds(stand, cases, arguments)
    found = rows(cases, rounds)
    shown = Table(*HEADER)
    for line in found:
        shown.add_row(*line)
    Console(width=200).print(shown)
    print("beside, rate, CPU, p95: medians over rounds of the ratio within a round. raw: 16 texts a batch, each text counted.")
    if arguments.json:
        arguments.json.write_text(json.dumps({case.name: [asdict(one[case.name]) for one in rounds] for case in cases}, indent=1) + "\n")
    if not arguments.only:
        write_readme(README, f"{_about(arguments, len(rounds))}\n\n{markdown(found)}")
        PICTURE.write_text(picture(cases, rounds))
        print(f"written: {README}, {PICTURE}")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
