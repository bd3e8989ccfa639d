"""`aisle evaluate`: how good the recommendations are, on files, beside simple baselines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.cli.training_tools import metrics_table, progress_bar, text_encoder
from server.domain.ids import ItemId
from server.domain.items import Item, item_text
from server.settings import Settings

if TYPE_CHECKING:
    from training.data import Progress, RawEvents
    from training.evaluate import Evaluation, FloatArray
    from training.metrics import Metric

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command
@click.option("--train", "train_file", type=_FILE, help="Events to fit on: CSV, JSONL or Parquet in the import format.")
@click.option("--test", "test_file", type=_FILE, help="What each user did next.")
@click.option("--items", "items_file", type=_FILE, help="Items with texts: adds the semantic view.")
@click.option("--validation", "validation_file", type=_FILE, help="Events between train and test: choose the fusion, then are fitted too.")
@click.option("--events", "events_file", type=_FILE, help="All events, in place of --train and --test: cut in two at one moment.")
@click.option(
    "--split-time",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="With --events: share of the events that lie before the cut.",
)
@click.option("--min-value", type=float, help="With --events: ask only for events after the cut whose value is at least this.")
@click.option("--metrics", default="hr@10,ndcg@10", show_default=True, help="hr@K recall@K ndcg@K mrr coverage@K, separated by commas.")
@click.option("--ease", is_flag=True, help="Runs the EASE baseline however many items there are.")
@click.option(
    "--cold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Take this share of the items (0.1) out of training and rank only them, by text; needs --items.",
)
@click.option("--report", "report_folder", type=_FOLDER, help="Write report.json and report.html into this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    *,
    train_file: Path | None,
    test_file: Path | None,
    items_file: Path | None,
    validation_file: Path | None,
    events_file: Path | None,
    split_time: float,
    min_value: float | None,
    metrics: str,
    ease: bool,
    cold: float | None,
    report_folder: Path | None,
    as_json: bool,
) -> None:
    """Train on files, rank all items that a user's fitted rows do not hold, and compare with popularity, item-kNN and EASE.

    Interrupted with Ctrl-C and called again, it goes on after the last finished epoch of the transformer.
    """
    import orjson

    from training.data import read_items
    from training.metrics import parse_metrics

    wanted = parse_metrics(metrics)
    if cold is not None and items_file is None:
        raise click.UsageError("--cold ranks items by their texts; give them with --items FILE")
    with progress_bar() as progress:
        items = read_items(items_file) if items_file else ()
        if events_file is None:
            train, validation, test = _read_parts(train_file, validation_file, test_file, min_value, progress)
        else:
            train, test = _read_split(events_file, [train_file, validation_file, test_file], split_time, min_value, progress)
            validation = None
        if cold is not None:
            result, table = _cold(train, validation, test, items, cold, wanted, progress)
        else:
            result, table = _warm(train, validation, test, items, wanted, progress, with_ease=ease, report=report_folder)
    click.echo(orjson.dumps(result).decode() if as_json else table)


def _warm(
    train: RawEvents,
    validation: RawEvents | None,
    test: RawEvents,
    items: Sequence[Item],
    metrics: Sequence[Metric],
    progress: Progress,
    *,
    with_ease: bool,
    report: Path | None,
) -> tuple[dict[str, Any], str]:
    from training.evaluate import evaluate as run

    result = run(
        train,
        test,
        metrics=metrics,
        validation=validation,
        items=items,
        text_vectors=_text_vectors(items, progress) if items else None,
        with_ease=with_ease,
        checkpoints=Settings().cache_dir / "training",
        progress=progress,
    )
    lines = [_table(result)]
    if report is not None:
        _write_report(result, report, progress)
        lines.append(f"report: {report / 'report.html'}")
    return result.to_json(), "\n".join(lines)


def _cold(
    train: RawEvents,
    validation: RawEvents | None,
    test: RawEvents,
    items: Sequence[Item],
    share: float,
    metrics: Sequence[Metric],
    progress: Progress,
) -> tuple[dict[str, Any], str]:
    from training.cold import evaluate_cold

    fitted = train + validation if validation is not None else train
    texts = _text_vectors(items, progress)
    result = evaluate_cold(fitted, test, share=share, items=items, text_vectors=texts, metrics=metrics, progress=progress)
    lines = [f"{result.cold_items} cold items ranked by text, fitted on {result.warm_events} events of the others"]
    for asked, what in (("test", "the cold items of --test"), ("all", "the cold items of all files")):
        lines += [f"{result.users[asked]} users, asked for {what}:", metrics_table(result.results[asked])]
    return result.to_json(), "\n".join([*lines, "in brackets the 95 % bootstrap interval over users, seed 0"])


def _read_parts(
    train: Path | None, validation: Path | None, test: Path | None, min_value: float | None, progress: Progress
) -> tuple[RawEvents, RawEvents | None, RawEvents]:
    from training.data import read_events

    if train is None or test is None:
        raise click.UsageError("give --train FILE and --test FILE, or --events FILE")
    if min_value is not None:
        raise click.UsageError("--min-value chooses what is asked for of --events FILE; a --test file holds only what is asked for")
    return read_events(train, progress), read_events(validation, progress) if validation else None, read_events(test, progress)


def _read_split(
    events: Path, others: Sequence[Path | None], share: float, min_value: float | None, progress: Progress
) -> tuple[RawEvents, RawEvents]:
    from training.splits import read_split_by_time

    if any(others):
        raise click.UsageError("--events is cut in two by itself; leave out --train, --validation and --test")
    return read_split_by_time(events, share, min_value=min_value, progress=progress)


def _write_report(result: Evaluation, folder: Path, progress: Progress) -> None:
    from training.report.build import write_report
    from training.report.findings import study_report

    report = study_report(result.study, result.study.fitted, progress=progress)
    write_report(report, folder, title=f"Evaluation: {folder.name}")


def _text_vectors(items: Sequence[Item], progress: Progress) -> Callable[[Sequence[ItemId]], FloatArray]:
    texts = {item.item_id: item_text(item) for item in items}

    async def encode(item_ids: Sequence[ItemId]) -> FloatArray:
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
        *(f"note: {sentence}" for sentence in result.notes),
        f"{result.seconds:.0f} s, {result.peak_rss_mb:.0f} MiB at most; in brackets the 95 % bootstrap interval over users, seed 0",
    ]
    return "\n".join(lines)
