"""A report as titled sections, each with pictures and the table that says the same. Pages and documents are made of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.report.figures import SERIES, Figure, Value, bars, lines

Json = Mapping[str, Any]

_SLICES = {
    "history": ("By length of the user's history", "Fitted interactions of the user."),
    "popularity": (
        "By popularity of the target",
        "Head: the fewest most popular items with a third of all fitted interactions; torso: the next, up to two thirds; tail: the rest.",
    ),
    "age": ("By age of the target", "Time from an item's first fitted interaction to its being asked for."),
}


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a report."""

    key: str
    title: str
    sentence: str
    """What is shown, or why nothing is."""
    figures: tuple[Figure, ...] = ()
    table: Table | None = None


def sections(report: Json) -> list[Section]:
    """Returns the sections of a report as `ModelReport.to_json` gives it."""
    makers = (_quality, *(_slice_maker(key) for key in _SLICES), _exposure, _ablation, _calibration, _int8, _curve)
    return [*(make(report) for make in makers), _fusion(report), _lineage(report)]


def interval(found: Json) -> str:
    """Returns an estimate with its interval: `0.0994 [0.0956, 0.1033]`."""
    return f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"


def _quality(report: Json) -> Section:
    title = "How good it is"
    if "quality" in report["absent"]:
        return Section("quality", title, _why(report, "quality"))
    results = report["results"]
    metrics = tuple(next(iter(results.values())))
    sentence = (
        f"{report['users']} users, {report['items']} items, full rank over all items but the user's fitted ones. "
        f"In brackets the 95 % bootstrap interval over users, seed {report['seed']}."
    )
    series = {name: [_value(row[metric]) for metric in metrics] for name, row in results.items()}
    figure = bars("quality", title, "metric", "value", metrics, _shown(series))
    rows = tuple((name, *(interval(row[metric]) for metric in metrics)) for name, row in results.items())
    return Section("quality", title, sentence, (figure,), Table(("", *metrics), rows))


def _slice_maker(key: str) -> Any:
    title, sentence = _SLICES[key]

    def make(report: Json) -> Section:
        if key in report["absent"]:
            return Section(key, title, _why(report, key))
        buckets = report["slices"][key]
        labels = [bucket["label"] for bucket in buckets]
        results = [bucket["results"] for bucket in buckets]
        series = {name: [_value(row[name]["ndcg@10"]) for row in results] for name in results[0]}
        figure = bars(key, title, title.removeprefix("By ").capitalize(), "NDCG@10", labels, _shown(series))
        metrics = tuple(next(iter(results[0].values())))
        rows = tuple(
            (bucket["label"], str(bucket["users"]), str(bucket["targets"]), name, *(interval(row[metric]) for metric in metrics))
            for bucket in buckets
            for name, row in bucket["results"].items()
        )
        return Section(key, title, sentence, (figure,), Table(("", "users", "targets", "contender", *metrics), rows))

    return make


def _exposure(report: Json) -> Section:
    title = "What is shown"
    if "exposure" in report["absent"]:
        return Section("exposure", title, _why(report, "exposure"))
    found = report["exposure"]
    sentence = (
        "Lists of ten. Coverage: share of all items in some list. Gini: 0 if all items are shown alike, near 1 if a few take all places. "
        "Diversity: mean of 1 - cosine of text vectors over a list's pairs. Novelty: mean of -log2 of an item's share of interactions."
    )
    if "diversity" in report["absent"]:
        sentence += f" Diversity is missing: {report['absent']['diversity']}."
    shares = ("coverage", "gini", "diversity")
    series = {name: [_share(row[key]) for key in shares] for name, row in found.items()}
    bits = {name: [_value(row["novelty"])] for name, row in found.items()}
    figures = (
        bars("exposure", title, "measure", "share", shares, _shown(series)),
        bars("novelty", "How unexpected lists are", "lists of ten", "novelty, bits", ["novelty"], _shown(bits)),
    )
    rows = tuple((name, *(_cell(row[key]) for key in (*shares, "novelty"))) for name, row in found.items())
    return Section("exposure", title, sentence, figures, Table(("", *shares, "novelty, bits"), rows))


def _ablation(report: Json) -> Section:
    title = "What each source is worth"
    if "ablation" in report["absent"]:
        return Section("ablation", title, _why(report, "ablation"))
    found = report["ablation"]
    sentence = (
        f"The fusion with one source alone, and with it taken away, for {found['users']} users; weights are not chosen anew. "
        "Change: NDCG@10 without the source less that of the whole fusion, user by user."
    )
    rows = found["rows"]
    whole = _value(found["whole"]["ndcg@10"])
    series: dict[str, list[Value | None]] = {
        "alone": [whole, *(_value(row["alone"]["ndcg@10"]) for row in rows)],
        "without": [whole, *(_value(row["without"]["ndcg@10"]) for row in rows)],
    }
    figure = bars("ablation", title, "source", "NDCG@10", ["all", *(row["source"] for row in rows)], series)
    cells = [("all", *(interval(found["whole"][metric]) for metric in ("hr@10", "ndcg@10")), "", "", "")]
    for row in rows:
        pairs = (interval(row[part][metric]) for part in ("alone", "without") for metric in ("hr@10", "ndcg@10"))
        cells.append((row["source"], *pairs, interval(row["change"])))
    columns = ("", "hr@10 alone", "ndcg@10 alone", "hr@10 without", "ndcg@10 without", "change")
    return Section("ablation", title, sentence, (figure,), Table(columns, tuple(cells)))


def _calibration(report: Json) -> Section:
    title = "Whether probabilities come true"
    if "calibration" in report["absent"]:
        return Section("calibration", title, _why(report, "calibration"))
    found = report["calibration"]
    sentence = (
        f"{found['count']} forecasts in bins of equal count; {found['rate']:.4f} of all came true. "
        f"Expected calibration error {found['ece']:.4f}, Brier score {found['brier']:.4f}."
    )
    points = [(one["forecast"], one["outcome"]) for one in found["bins"]]
    figure = lines("calibration", title, "mean probability", "share that came true", {"forecasts": points}, diagonal=True)
    rows = tuple((f"{one['forecast']:.4f}", f"{one['outcome']:.4f}", str(one["count"])) for one in found["bins"])
    return Section("calibration", title, sentence, (figure,), Table(("mean probability", "came true", "forecasts"), rows))


def _int8(report: Json) -> Section:
    title = "What int8 costs"
    if "int8" in report["absent"]:
        return Section("int8", title, _why(report, "int8"))
    found = report["int8"]
    series = {kind: [_share(pair[kind]) for pair in found.values()] for kind in ("float32", "int8")}
    figure = bars("int8", title, "metric", "value", list(found), series)
    rows = tuple((name, *(f"{pair[kind]:.4f}" for kind in ("float32", "int8")), _change(pair)) for name, pair in found.items())
    sentence = "The same model on the same users, computed in float32 and in int8."
    return Section("int8", title, sentence, (figure,), Table(("", "float32", "int8", "relative change"), rows))


def _curve(report: Json) -> Section:
    title = "How training went"
    if "curve" in report["absent"]:
        return Section("curve", title, _why(report, "curve"))
    found = report["curve"]
    figures = [lines("loss", "Loss by epoch", "epoch", "training loss", {"loss": [(one["epoch"], one["loss"]) for one in found]})]
    judged = [(one["epoch"], one["ndcg"]) for one in found if one["ndcg"] is not None]
    if judged:
        figures.append(lines("ndcg", "NDCG by epoch", "epoch", "NDCG@10, held out", {"ndcg": judged}))
    rows = tuple((str(one["epoch"]), f"{one['loss']:.4f}", _cell(one["ndcg"]), f"{one['seconds']:.1f}") for one in found)
    sentence = f"{len(found)} epochs, {sum(one['seconds'] for one in found):.0f} s."
    return Section("curve", title, sentence, tuple(figures), Table(("epoch", "loss", "ndcg@10", "seconds"), rows))


def _fusion(report: Json) -> Section:
    named = {**report["fusion"], **{f"decay of {name}": value for name, value in report["decays"].items()}}
    rows = tuple((name, f"{value:g}") for name, value in named.items())
    return Section("fusion", "Weights of the fusion", "Chosen on held-out interactions.", table=Table(("", "value"), rows))


def _lineage(report: Json) -> Section:
    found = report["lineage"]
    times = {name: _time(found[f"{name}_s"]) for name in ("first_event", "last_event")}
    named = {
        "events": found["events"],
        "users": found["users"],
        "items with events": found["items"],
        "first event": times["first_event"],
        "last event": times["last_event"],
        "SHA-256 of the events": found["sha256"],
        "seed": report["seed"],
        **report["versions"],
    }
    rows = tuple((name, str(value)) for name, value in named.items())
    return Section("lineage", "What it is made of", "What the model was fitted on, and by what.", table=Table(("", "value"), rows))


def _why(report: Json, key: str) -> str:
    reason = str(report["absent"][key])
    return f"Not in this report: {reason}."


def _shown(series: dict[str, list[Value | None]]) -> dict[str, list[Value | None]]:
    """Returns as many series as a picture can tell apart; the table has all."""
    return dict(list(series.items())[:SERIES])


def _value(found: Json) -> Value | None:
    return found["value"], found["low"], found["high"]


def _share(found: Any) -> Value | None:
    if isinstance(found, Mapping):
        return _value(found)
    return None if found is None else (found, found, found)


def _cell(found: Any) -> str:
    if isinstance(found, Mapping):
        return interval(found)
    return "-" if found is None else f"{found:.4f}"


def _change(pair: Json) -> str:
    return f"{pair['int8'] / pair['float32'] - 1:+.2%}" if pair["float32"] else "-"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{np.datetime64(math.floor(seconds), 's')}Z"  # datetime knows the years 1 to 9999 only


def markdown(table: Table) -> str:
    """Returns the table in Markdown."""
    return "\n".join(markdown_row(row) for row in (table.columns, ("---",) * len(table.columns), *table.rows))


def markdown_row(cells: Sequence[str]) -> str:
    """Returns one line of it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
