"""Makes the report of a model from one ranking pass, and writes it beside the model.

Shapes: N items, D dimensions of a text vector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.retrieval.bundle import REPORT, REPORT_PAGE
from training.data import Interactions, Progress
from training.evaluate import Study
from training.metrics import Estimate, parse_metrics
from training.ranks import LIST_LENGTH, judge
from training.report.ablation import Ablation, ablate, sources
from training.report.calibration import Calibration, Forecasts, calibration
from training.report.exposure import Exposure, exposure
from training.report.lineage import lineage, versions
from training.report.page import render_page
from training.report.slices import Bucket, by_age, by_history, by_popularity

Vectors: TypeAlias = NDArray[np.float32]

QUALITY = parse_metrics("hr@10,ndcg@10,recall@20,mrr,coverage@10")
SLICED = parse_metrics("hr@10,ndcg@10,recall@20,mrr")
SEED = 0
"""Of every draw: resamples of users, users of the ablation."""

_NOT_JUDGED = "nothing could be held out: too few users have enough interactions"
_MADE_UP = "times cannot be compared across users: most users start at the same second, so an item's age is unknown"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One epoch of a training."""

    epoch: int
    loss: float
    ndcg: float | None
    """NDCG@10 of what was held out; None where nothing was."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What only the part that trained it knows. What is left out has no section, and the report says so."""

    forecasts: Forecasts | None = None
    """Probabilities of a contender that gives any, and what came of them."""
    int8: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Metric -> its value in float32 and in int8."""
    curve: Sequence[CurvePoint] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """How good a model is, for whom, on what, and what it is made of."""

    users: int
    """Users asked."""
    items: int
    results: Mapping[str, Mapping[str, Estimate]]
    """Contender -> metric -> estimate."""
    slices: Mapping[str, Sequence[Bucket]]
    """`history`, `popularity` and `age` -> buckets."""
    exposure: Mapping[str, Exposure]
    calibration: Calibration | None
    int8: Mapping[str, tuple[float, float]]
    curve: Sequence[CurvePoint]
    ablation: Ablation | None
    fusion: Mapping[str, float]
    decays: Mapping[str, float]
    lineage: Mapping[str, Any]
    versions: Mapping[str, str]
    absent: Mapping[str, str]
    """Section -> why it is empty, one sentence."""

    def to_json(self) -> dict[str, Any]:
        """Returns what report.json holds."""
        return {
            "format": 1,
            "users": self.users,
            "items": self.items,
            "seed": SEED,
            "results": {name: {metric: found.to_json() for metric, found in row.items()} for name, row in self.results.items()},
            "slices": {name: [bucket.to_json() for bucket in buckets] for name, buckets in self.slices.items()},
            "exposure": {name: found.to_json() for name, found in self.exposure.items()},
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "int8": {metric: {"float32": exact, "int8": small} for metric, (exact, small) in self.int8.items()},
            "curve": [asdict(point) for point in self.curve],
            "ablation": None if self.ablation is None else self.ablation.to_json(),
            "fusion": dict(self.fusion),
            "decays": dict(self.decays),
            "lineage": dict(self.lineage),
            "versions": dict(self.versions),
            "absent": dict(self.absent),
        }


def build_report(
    study: Study, fitted: Interactions, *, vectors: Vectors | None = None, findings: Findings | None = None, progress: Progress
) -> ModelReport:
    """Returns the report.

    Args:
        study: Of the model, or of its draft where the model itself was fitted on what is asked for. Without rankings nothing is judged.
        fitted: What the model was fitted on, for its lineage.
        vectors: float32, (N, D), unit rows, zeros for an item without a text; None where no item has one.
        findings: What only the parts that trained it know.
        progress: Told about each step.
    """
    known = findings if findings is not None else Findings()
    model, absent = study.model, _absent(study, known, vectors)
    return ModelReport(
        users=len(next(iter(study.rankings.values())).users) if study.rankings else 0,
        items=fitted.item_count,
        results=judge(study.rankings, QUALITY),
        slices=_slices(study, progress),
        exposure=_exposure(study, vectors),
        calibration=calibration(known.forecasts) if known.forecasts is not None else None,
        int8=known.int8,
        curve=known.curve,
        ablation=None if "ablation" in absent else ablate(model, study.fitted, study.asked, progress=progress, seed=SEED),
        fusion=model.weights.to_json(),
        decays=asdict(model.decays),
        lineage=lineage(fitted),
        versions=versions(),
        absent=absent,
    )


def report_files(report: ModelReport, *, title: str) -> dict[str, bytes]:
    """Returns the report's two files by name."""
    found = report.to_json()
    return {REPORT: json.dumps(found, indent=1).encode() + b"\n", REPORT_PAGE: render_page(found, title=title).encode()}


def write_report(report: ModelReport, folder: Path, *, title: str) -> None:
    """Writes report.json and report.html into a folder, which is made if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in report_files(report, title=title).items():
        (folder / name).write_bytes(content)


def _slices(study: Study, progress: Progress) -> dict[str, list[Bucket]]:
    if not study.rankings:
        return {}
    progress("breaking results down", 0.0)
    found = {
        "history": by_history(study.rankings, study.fitted, SLICED),
        "popularity": by_popularity(study.rankings, study.fitted, SLICED),
    }
    if study.fitted.has_real_times():
        found["age"] = by_age(study.rankings, study.fitted, study.asked, SLICED)
    return found


def _exposure(study: Study, vectors: Vectors | None) -> dict[str, Exposure]:
    counts = np.bincount(study.fitted.items, minlength=study.fitted.item_count)
    return {name: exposure(ranking.tops[:, :LIST_LENGTH], counts, vectors) for name, ranking in study.rankings.items()}


def _absent(study: Study, findings: Findings, vectors: Vectors | None) -> dict[str, str]:
    absent: dict[str, str] = {}
    if not study.rankings:
        absent |= dict.fromkeys(("quality", "history", "popularity", "age", "exposure", "ablation"), _NOT_JUDGED)
    elif not study.fitted.has_real_times():
        absent["age"] = _MADE_UP
    if study.rankings and not sources(study.model.weights):
        absent["ablation"] = "the fusion gives no source a weight"
    if vectors is None:
        absent["diversity"] = "no item has a text, so how alike two items are is unknown"
    if findings.forecasts is None:
        absent["calibration"] = "no contender gives probabilities"
    if not findings.int8:
        absent["int8"] = "no part of the model was compared in float32 and in int8"
    if not findings.curve:
        absent["curve"] = "no part of the model was trained in epochs"
    return absent
