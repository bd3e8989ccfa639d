"""`aisle evaluate`: how good the recommendations are, on files, beside simple baselines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from server.cli.training_tools import metrics_table, progress_bar, text_encoder
from server.domain.ids import ItemId
from server.domain.items import Item, item_text

if TYPE_CHECKING:
    from training.data import Progress
    from training.evaluate import Evaluation, FloatArray

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command
@click.option("--train", "train_file", type=_FILE, required=True, help="Events to fit on: CSV, JSONL or Parquet in the import format.")
@click.option("--test", "test_file", type=_FILE, required=True, help="What each user did next.")
@click.option("--items", "items_file", type=_FILE, help="Items with texts: adds the semantic view.")
@click.option("--validation", "validation_file", type=_FILE, help="Events between train and test: choose the fusion, then are fitted too.")
@click.option("--metrics", default="hr@10,ndcg@10", show_default=True, help="hr@K recall@K ndcg@K mrr coverage@K, separated by commas.")
@click.option("--ease", is_flag=True, help="Runs the EASE baseline however many items there are.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    train_file: Path,
    test_file: Path,
    items_file: Path | None,
    validation_file: Path | None,
    metrics: str,
    ease: bool,
    as_json: bool,
) -> None:
    """Train on files, rank all items that a user's fitted rows do not hold, and compare with popularity, item-kNN and EASE."""
    import orjson

    from training.data import read_events, read_items
    from training.evaluate import evaluate as run
    from training.metrics import parse_metrics

    wanted = parse_metrics(metrics)
    with progress_bar() as progress:
        items = read_items(items_file) if items_file else ()
        result = run(
            read_events(train_file, progress),
            read_events(test_file, progress),
            metrics=wanted,
            validation=read_events(validation_file, progress) if validation_file else None,
            item_ids=[item.item_id for item in items],
            text_vectors=_text_vectors(items, progress) if items else None,
            with_ease=ease,
            progress=progress,
        )
    click.echo(orjson.dumps(result.to_json()).decode() if as_json else _table(result))


def _text_vectors(items: Sequence[Item], progress: Progress) -> Callable[[Sequence[ItemId]], FloatArray]:
    texts = {item.item_id: item_text(item) for item in items}

    async def encode(item_ids: Sequence[ItemId]) -> FloatArray:
        from server.settings import Settings
        from training.views.semantic import encode_texts

        async with text_encoder() as encoder:
            wanted = [texts.get(item_id, "") for item_id in item_ids]
            return await encode_texts(encoder, wanted, cache_dir=Settings().cache_dir, progress=progress)

    return lambda item_ids: asyncio.run(encode(item_ids))


def _table(result: Evaluation) -> str:
    lines = [
        f"{result.users} test users, {result.items} items ranked, fitted on {result.events} events",
        metrics_table(result.results),
        *(f"{name} left out: {reason}" for name, reason in result.skipped.items()),
        f"{result.seconds:.0f} s, {result.peak_rss_mb:.0f} MiB at most; in brackets the 95 % bootstrap interval over users, seed 0",
    ]
    return "\n".join(lines)
