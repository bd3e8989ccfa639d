"""The dashboard of a live run asks only for what is exported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from prometheus_client import REGISTRY

import server.telemetry

_ROOT = Path(__file__).resolve().parents[2]
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
_OURS_OF_LOAD = """
import json
from loadtest.reporting import REGISTRY
print(json.dumps([[one.name, one.type] for one in REGISTRY.collect()]))
"""


def _expressions() -> list[str]:
    dashboard = json.loads((_ROOT / "deploy" / "grafana" / "load.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def _exported() -> set[str]:
    """Returns every series name of the server and of the load generator, which runs apart: it patches the standard library."""
    path = os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen")])
    run = subprocess.run(
        [sys.executable, "-c", _OURS_OF_LOAD], capture_output=True, text=True, check=True, cwd=_ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    assert server.telemetry
    families = [(one.name, one.type) for one in REGISTRY.collect()] + [tuple(one) for one in json.loads(run.stdout)]
    return {name + suffix for name, kind in families for suffix in _SUFFIXES.get(kind, ())}


def test_each_metric_of_the_dashboard_is_exported() -> None:
    """Every series that a panel names is one that /metrics or the load generator exports, and there are panels."""
    named = {name for expression in _expressions() for name in re.findall(r"\b(?:aisle|process)_[a-z_]+", expression)}
    assert len(named) > 10
    assert named - _exported() == set()


def test_each_label_of_the_dashboard_is_one_that_its_metric_has() -> None:
    """What a panel groups server metrics by is a label of the metric it groups, so no panel shows one nameless line."""
    labels = {
        name: set(getattr(server.telemetry, handle)._labelnames)
        for handle, name in (
            ("CALL_SECONDS", "aisle_call_seconds"),
            ("STEP_SECONDS", "aisle_step_seconds"),
            ("RUNGS", "aisle_rung_total"),
            ("CACHE_READS", "aisle_cache_reads_total"),
            ("INFERENCE_SECONDS", "aisle_inference_seconds"),
            ("BATCH_ROWS", "aisle_batch_rows"),
            ("STREAM_LAG", "aisle_stream_lag_entries"),
        )
    }
    checked = 0
    for expression in _expressions():
        for by, metric in re.findall(r"sum by \(([^)]*)\) \((?:rate\()?(aisle_[a-z_]+)", expression):
            known = next(
                (
                    have
                    for name, have in labels.items()
                    if metric == name
                    or metric.removesuffix("_bucket") == name
                    or metric.removesuffix("_count") == name
                    or metric.removesuffix("_sum") == name
                ),
                None,
            )
            if known is not None:
                assert {one.strip() for one in by.split(",")} - {"le"} <= known, expression
                checked += 1
    assert checked >= 7
