"""What `aisle evaluate` and `aisle train` share: a progress bar, the text encoder, the metrics table."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from server.inference.text import TextEncoder
    from training.data import Progress
    from training.metrics import Estimate


_Result = TypeVar("_Result")

_LINE_EVERY_S = 30.0


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yields a function that shows a step and its share done on stderr: a bar on a terminal, elsewhere a line every half minute."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        with progress_lines(lambda line: click.echo(line, err=True), every_s=_LINE_EVERY_S) as progress:
            yield progress
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda step, share: bar.update(task, description=escape(step), completed=share)


@contextmanager
def progress_lines(write: Callable[[str], None], *, every_s: float) -> Iterator[Progress]:
    """Yields a function that is told a step and its share done; what it was told last is written every `every_s` seconds.

    Written from a thread, so that a step which says nothing for minutes is seen too.
    """
    latest = ("starting", 0.0)
    started = time.monotonic()
    done = threading.Event()

    def told(step: str, share: float) -> None:
        nonlocal latest
        latest = (step, share)

    def lines() -> None:
        while not done.wait(every_s):
            step, share = latest
            write(f"{step} ({share:.0%}), {time.monotonic() - started:.0f} s so far")

    thread = threading.Thread(target=lines, name="progress-lines", daemon=True)
    thread.start()
    try:
        yield told
    finally:
        done.set()
        thread.join()


async def in_thread(work: Callable[[Progress], _Result], progress: Progress) -> _Result:
    """Returns what the work returns, which runs in a thread. Cancelled, it ends the work where that next tells its progress.

    A thread cannot be interrupted from outside, and a process waits for its threads: without this Ctrl-C would wait for the training.
    """
    stopped = threading.Event()

    def told(step: str, share: float) -> None:
        if stopped.is_set():
            raise _StoppedError
        progress(step, share)

    try:
        return await asyncio.to_thread(work, told)
    except asyncio.CancelledError:
        stopped.set()
        raise


class _StoppedError(Exception):
    """Ends the work of a cancelled task; nobody waits for its result."""


@asynccontextmanager
async def text_encoder() -> AsyncIterator[TextEncoder]:
    """Yields the text encoder in this process, built if it is not cached."""
    from server.cli.models import build_with_progress
    from server.inference.assembly import open_inference
    from server.settings import Settings

    settings = Settings()
    encoder = build_with_progress(None, settings.cache_dir)
    async with open_inference(
        triton_url="",
        encoder=encoder,
        model_repository=settings.model_repository,
        threads=settings.inference_threads,
        runtime="local",
    ) as inference:
        yield inference.encoder


def metrics_table(results: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Returns contenders by metrics, each with its 95 % interval."""
    return results_table({name: {metric: found.to_json() for metric, found in row.items()} for name, row in results.items()})


def results_table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Returns the same table from JSON, as a bundle's manifest keeps it."""
    metrics = list(next(iter(results.values())))
    lines = [f"{'':12}" + "".join(f"{metric:>26}" for metric in metrics)]
    for name, row in results.items():
        cells = (f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]" for found in row.values())
        lines.append(f"{name:12}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
