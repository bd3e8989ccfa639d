"""What a report tells of the parts that were trained: the ranker's probabilities, int8 against float32, and the training curve.

Shapes: N items, D dimensions of the semantic view.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.data import Interactions, Progress
from training.evaluate import Study, aisle_scores
from training.metrics import parse_metrics
from training.ranks import judge, rank_users
from training.report.build import CurvePoint, Findings, ModelReport, Vectors, build_report

_COMPARED = parse_metrics("hr@10,ndcg@10")
_USERS = 4000
"""Users of the comparison of int8 and float32, drawn with seed 0: what is looked for is a hundredth of NDCG."""


def study_report(study: Study, fitted: Interactions, *, progress: Progress) -> ModelReport:
    """Returns the report of a study.

    Args:
        study: Of the model, or of its draft where the model itself was fitted on what is asked for.
        fitted: What the model was fitted on, for its lineage.
        progress: Told about each step.
    """
    return build_report(study, fitted, vectors=_unit_views(study), findings=_findings(study, progress), progress=progress)


def _unit_views(study: Study) -> Vectors | None:
    """Returns what items are about, float32, (N, D), of unit length; None where no item has a text."""
    views = study.model.semantic_views
    return None if views is None else views / np.maximum(np.linalg.norm(views, axis=1, keepdims=True), 1e-9)


def _findings(study: Study, progress: Progress) -> Findings:
    forecasts = None
    if study.learning is not None and len(study.learning.reliability.outcomes):
        forecasts = (study.learning.reliability.probabilities, study.learning.reliability.outcomes)
    curve = study.validated.curve if study.validated is not None else ()
    return Findings(
        forecasts=forecasts,
        int8=_int8(study, progress) if study.rankings else {},
        curve=[CurvePoint(point.epoch, point.loss, point.validation, point.seconds) for point in curve],
    )


def _int8(study: Study, progress: Progress) -> dict[str, tuple[float, float]]:
    """Returns each metric with the float32 encoder of histories and with the int8 one that serves."""
    served = study.model.sequential
    if served is None:
        return {}
    users = np.unique(study.asked.users)
    if len(users) > _USERS:
        users = np.sort(np.random.default_rng(0).choice(users, _USERS, replace=False))
    exact = replace(study.model, sequential=replace(served, onnx=served.exact))
    rankings = {
        name: rank_users(name, aisle_scores(model, study.fitted), users, study.fitted, study.asked, progress=progress)
        for name, model in (("float32", exact), ("int8", study.model))
    }
    found = judge(rankings, _COMPARED)
    return {metric.name: (found["float32"][metric.name].value, found["int8"][metric.name].value) for metric in _COMPARED}
