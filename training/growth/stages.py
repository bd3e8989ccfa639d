"""The stages of `training.pipeline`, and what serving does with the result, one after another and each timed.

Shapes: N items.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from server.domain.ids import ItemId, TenantId
from server.domain.profiles import Interaction
from server.inference.sequence import EncodedHistory, sequence_inputs
from training.bundle import write_bundle
from training.counting import count, user_items
from training.data import Interactions, Progress
from training.evaluate import Study
from training.growth.generate import EVENT_TYPES, generate
from training.model import Model, fit
from training.regression import fit_regression
from training.report.findings import study_report
from training.splits import LEAST_HISTORY
from training.tuning import Fold, choose
from training.views.collaborative import fit_factors
from training.views.sequential.fit import SequenceTask, Sequential, fit_sequential

_REPETITIONS = 50
_HISTORY = 50
"""Interactions of the histories that are folded in."""
_LENGTHS = (10, 50, 200)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one stage took."""

    seconds: float
    cpu_seconds: float
    """Of all threads: what other work on the machine does not change much."""
    peak_mb: float
    """Most memory resident during the stage, in MiB, mapped files included."""


class Stages:
    """Runs everything for one size.

    Args:
        events: Interactions.
        items: N.
        progress: Told which stage runs, and about its steps.
    """

    def __init__(self, events: int, items: int, progress: Progress) -> None:
        self._events, self._items, self._progress = events, items, progress
        self.costs: dict[str, Cost] = {}
        self.serving_us: dict[str, float] = {}
        """Median microseconds of one call, on one thread."""

    def run(self) -> dict[str, Any]:
        """Returns costs by stage and serving times by name, as JSON."""
        with self._timed("generating"):
            interactions = generate(self._events, self._items)
        last = interactions.last_of_each(least=LEAST_HISTORY)
        before, held_out = interactions.select(~last), interactions.select(last)
        with self._timed("counting"):
            counts = count(before)
        view = self._view(before, held_out)
        with self._timed("item regression"):
            regression = fit_regression(user_items(before))
        with self._timed("collaborative factors"):
            factors = fit_factors(before)
        item_ids = tuple(ItemId(f"i{row:07}") for row in range(self._items))
        model = fit(before, item_ids, sequential=view, event_types=EVENT_TYPES, counts=counts, regression=regression, factors=factors)
        with self._timed("tuning"):
            model = choose([Fold(model, before, held_out)], progress=self._progress)
        with self._timed("writing the bundle"), tempfile.TemporaryDirectory() as folder:
            report = study_report(Study.unjudged(model, before), before, progress=self._progress)
            write_bundle(model, before, {}, report, tenant_id=TenantId("growth"), text_model="", directory=Path(folder), ranking={})
        self._serve(model, before)
        return {
            "users": interactions.user_count,
            "stages": {name: {"seconds": c.seconds, "cpu_seconds": c.cpu_seconds, "peak_mb": c.peak_mb} for name, c in self.costs.items()},
            "serving_us": self.serving_us,
        }

    def _view(self, before: Interactions, held_out: Interactions) -> Sequential | None:
        task = SequenceTask(event_types=EVENT_TYPES, texts=None, checkpoints=None, progress=self._progress)
        with self._timed("sequential view: one epoch, validation, export"):
            view = fit_sequential(before, task, held_out=held_out, epochs=1)
        if view is not None:
            whole = self.costs["sequential view: one epoch, validation, export"]
            share = view.curve[0].seconds / whole.seconds
            # An epoch is timed by the clock; its share of the processor is taken to be the same.
            self.costs["sequential view: one epoch"] = replace(whole, seconds=view.curve[0].seconds, cpu_seconds=whole.cpu_seconds * share)
        return view

    def _serve(self, model: Model, before: Interactions) -> None:
        user = int(np.argmax(np.diff(before.starts)))
        history = before.history(user)
        ids = [model.item_ids[row] for row in history.rows[-_HISTORY:].tolist()]
        profile = [Interaction(item_id, "view", datetime.fromtimestamp(0, UTC)) for item_id in ids]
        source, space = model.sparse_source(), model.space()
        weights = np.full(len(ids), 1.0, np.float32)
        self.serving_us[f"sparse fold-in, {_HISTORY} events"] = self._median_us(lambda: source.fold_in(profile))
        self.serving_us[f"collaborative fold-in, {_HISTORY} events"] = self._median_us(lambda: space.fold_in(ids, weights))
        if model.sequential is None:
            return
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.sequential.onnx, options, providers=["CPUExecutionProvider"])
        for length in _LENGTHS:
            rows = np.resize(history.rows, length)
            feed = sequence_inputs([EncodedHistory(model.sequence_space().items[rows], np.full(length, 2), np.arange(float(length)))])
            self.serving_us[f"sequence encoding, {length} events"] = self._median_us(partial(session.run, ["vector"], feed))

    def _median_us(self, call: Callable[[], object]) -> float:
        self._progress("serving", 0.0)
        taken = []
        for _ in range(_REPETITIONS):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
        return float(np.median(taken) * 1e6)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self._progress(stage, 0.0)
        _forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.costs[stage] = Cost(time.perf_counter() - wall, time.process_time() - cpu, _peak_mb())


def _forget_peak() -> None:
    """Makes the kernel start the peak of resident memory anew; where it cannot, peaks are those of all stages so far."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        from training.evaluate import peak_rss_mb

        return peak_rss_mb()
    kib = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
    return float(kib) / 1024 if kib is not None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
