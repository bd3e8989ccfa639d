"""What `aisle evaluate` and `aisle train` share: a progress bar, the text encoder, the metrics table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.inference.text import TextEncoder
    from training.data import Progress
    from training.metrics import Estimate


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yields a function that shows a step and its share done on stderr, with the time so far."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda step, share: bar.update(task, description=step, completed=share)


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
    metrics = list(next(iter(results.values())))
    lines = [f"{'':12}" + "".join(f"{metric:>26}" for metric in metrics)]
    for name, row in results.items():
        cells = (f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]" for found in row.values())
        lines.append(f"{name:12}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
