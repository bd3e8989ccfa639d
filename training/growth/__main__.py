"""`python -m training.growth`: time and memory of each stage of training as events and items grow, on made-up data."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from server.errors import AisleError, InvalidFieldError
from training.data import Progress
from training.growth.measure import Size, measure
from training.growth.report import plot, slopes, table

_SIZES = "10000,100000,1000000"
_EVENTS_AN_ITEM = 25
_MOST_ITEMS = 40_000
_EVENTS_OF_ITEMS = 1_000_000
_FILE = "growth.json"


@click.command
@click.option("--sizes", default=_SIZES, show_default=True, help="Numbers of events; items are a 25th of them, at most 40,000.")
@click.option(
    "--items", default=None, help="Numbers of items, each with 1,000,000 events.  [default: 10000,100000,1000000 without --sizes]"
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("growth"), show_default=True, help="Folder of the results.")
@click.pass_context
def main(context: click.Context, sizes: str, items: str | None, out: Path) -> None:
    """Measure each stage of training, and serving, on data of growing size.

    Finished sizes are kept in OUT/growth.json and are not measured again, so an interrupted run is gone on with by the same command.
    """
    if items is None:
        items = _SIZES if context.get_parameter_source("sizes") is click.core.ParameterSource.DEFAULT else ""
    try:
        by_events = [Size(events, max(1, min(events // _EVENTS_AN_ITEM, _MOST_ITEMS))) for events in _numbers("sizes", sizes)]
        by_items = [Size(_EVENTS_OF_ITEMS, count) for count in _numbers("items", items)]
        found = _read(out)
    except AisleError as error:
        raise click.ClickException(error.message) from error
    out.mkdir(parents=True, exist_ok=True)
    try:
        with _bar() as progress:
            for size in dict.fromkeys([*by_events, *by_items]):
                if size.key not in found:
                    _add(size, found, out, progress)
    except KeyboardInterrupt:
        click.echo(f"interrupted; {len(found)} sizes are kept in {out / _FILE}, and the same command goes on after them", err=True)
        sys.exit(130)
    for axis, chosen in (("events", by_events), ("items", by_items)):
        _report(axis, [(size, found[size.key]) for size in chosen if size.key in found], out)


def _add(size: Size, found: dict[str, Any], out: Path, progress: Progress) -> None:
    result, trouble = measure(size, progress)
    if result is None:
        click.echo(f"{size.key} was not measured: {trouble}", err=True)
        return
    found[size.key] = result
    unfinished = out / f"{_FILE}.unfinished"
    unfinished.write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
    unfinished.replace(out / _FILE)


def _report(axis: str, points: list[tuple[Size, Any]], out: Path) -> None:
    if not points:
        return
    click.echo(f"\n{table(points)}\n")
    for name, slope in slopes(points, axis).items():
        click.echo(f"grows with {axis} to the power {slope:.2f}: {name}")
    if drawing := plot(points, axis):
        (out / f"growth-{axis}.svg").write_text(drawing, encoding="utf-8")


def _numbers(option: str, text: str) -> list[int]:
    """Returns the whole numbers of a list with commas.

    Raises:
        InvalidFieldError: One is none, or below 100.
    """
    numbers = []
    for part in text.replace("_", "").split(",") if text else []:
        if not part.strip().isdecimal() or int(part) < 100:
            raise InvalidFieldError(option, f"{part.strip()!r} is no whole number from 100; give a list such as 10000,100000")
        numbers.append(int(part))
    return numbers


def _read(out: Path) -> dict[str, Any]:
    path = out / _FILE
    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidFieldError("out", f"{path} is no JSON ({error}); delete it to measure everything anew") from error
    return found


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    with Bar(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda step, share: bar.update(task, description=step, completed=share)


if __name__ == "__main__":
    main()
