"""Trains a bundle and writes it as an immutable directory whose name is its content's.

Shapes: U users, N items, D dimensions of a view.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import BundleId, ItemId, TenantId
from server.domain.ranking import RANKER_FEATURES, VIEW_DIMENSIONS, VIEWS
from server.retrieval.bundle import ARRAYS, FORMAT_VERSION, ITEM_IDS, MANIFEST, RANKER, bundle_id_of
from training import baselines
from training.data import Interactions, Progress, RawEvents, Vocabulary
from training.evaluate import aisle_scores, rank_users, train_model
from training.metrics import DEFAULT_METRICS, Estimate, parse_metrics
from training.model import Model, fit
from training.ranker import ranker_model
from training.tuning import with_view_weights

FloatArray: TypeAlias = NDArray[np.float32]

ENOUGH_USERS = 20
"""Users with a held-out interaction that a fusion can be chosen on. With fewer the default is kept."""

_LEAST_HISTORY = 3


@dataclass(frozen=True, slots=True)
class TrainedBundle:
    """A bundle on disk, and how it did."""

    bundle_id: BundleId
    directory: Path
    manifest: Mapping[str, Any]
    results: Mapping[str, Mapping[str, Estimate]]
    """Contender -> metric -> estimate, on each user's last interaction; empty when there were too few."""
    missing: tuple[str, ...] = field(default=())
    """What the data did not suffice for, one sentence each."""

    @property
    def passes(self) -> bool:
        """Whether the bundle may serve: it ranks no worse than popularity on what was held out, or nothing could be held out."""
        if not self.results:
            return True
        return self.results["aisle"]["ndcg@10"].value >= self.results["popularity"]["ndcg@10"].value


def train(
    events: RawEvents,
    text_vectors: Mapping[ItemId, FloatArray],
    *,
    item_ids: tuple[ItemId, ...],
    tenant_id: TenantId,
    text_model: str,
    directory: Path,
    progress: Progress = lambda _step, _share: None,
) -> TrainedBundle:
    """Returns the bundle of these events, written below `directory` as a folder named by its id.

    Of every user with enough history the last interaction is held out: the fusion is chosen on one half of the users, the metrics are of
    the other half. Then everything is fitted on all interactions. With too little data it trains what it can and says what is missing.

    Args:
        events: Interactions in any order.
        text_vectors: float32, (D,), of items that have a text.
        item_ids: The tenant's catalogue. Items of events that are not in it are left out: they cannot be recommended.
        tenant_id: Whose bundle it is.
        text_model: Version of the encoder behind `text_vectors`.
        directory: Must exist.
        progress: Told about each step.
    """
    vocabulary = Vocabulary.of([events], item_ids)
    known = set(item_ids)
    in_catalogue = np.fromiter((item in known for item in events.items), np.bool_, len(events.items))
    if not in_catalogue.all():
        vocabulary = Vocabulary(vocabulary.user_ids, tuple(sorted(known)))
        events = events.select(in_catalogue)
    interactions = vocabulary.encode(events)
    texts = _text_matrix(vocabulary.item_ids, text_vectors)
    missing = _missing(interactions, texts, int((~in_catalogue).sum()))
    last = interactions.last_of_each(least=_LEAST_HISTORY)
    if int(last.sum()) >= 2 * ENOUGH_USERS:
        model, results = _choose_and_judge(interactions, last, vocabulary.item_ids, texts, progress)
    else:
        model, results = with_view_weights(fit(interactions, vocabulary.item_ids, texts)), {}
    progress("writing the bundle", 0.0)
    bundle_id, path, manifest = write_bundle(
        model, interactions, results, tenant_id=tenant_id, text_model=text_model if texts is not None else "", directory=directory
    )
    return TrainedBundle(bundle_id, path, manifest, results, missing)


def _choose_and_judge(
    interactions: Interactions,
    last: NDArray[np.bool_],
    item_ids: tuple[ItemId, ...],
    texts: FloatArray | None,
    progress: Progress,
) -> tuple[Model, dict[str, dict[str, Estimate]]]:
    before, held_out = interactions.select(~last), interactions.select(last)
    judged = held_out.users % 2 == 1  # rows of users are in the order of opaque ids: halves are alike
    draft, model = train_model(before, held_out.select(~judged), interactions, item_ids, texts, progress=progress)
    metrics = parse_metrics(",".join(DEFAULT_METRICS))
    asked = held_out.select(judged)
    contenders = {"aisle": aisle_scores(draft, before), "popularity": baselines.popularity(before), "item_knn": baselines.item_knn(before)}
    users = np.unique(asked.users)
    return model, {name: rank_users(name, score, users, before, asked, metrics, progress=progress) for name, score in contenders.items()}


def _text_matrix(item_ids: tuple[ItemId, ...], text_vectors: Mapping[ItemId, FloatArray]) -> FloatArray | None:
    if not text_vectors:
        return None
    matrix = np.zeros((len(item_ids), VIEW_DIMENSIONS), np.float32)
    for row, item_id in enumerate(item_ids):
        if item_id in text_vectors:
            matrix[row] = text_vectors[item_id]
    return matrix


def _missing(interactions: Interactions, texts: FloatArray | None, unknown: int) -> tuple[str, ...]:
    sentences = []
    if unknown:
        sentences.append(f"{unknown} events name items that are not in the catalogue and were left out; import those items to use them")
    if texts is None:
        sentences.append("no item has a text: the semantic view is off; import items with titles and descriptions")
    if not len(interactions.users):
        sentences.append("there are no events: the collaborative view and the item-to-item source are off; import or ingest events")
    elif int((np.diff(interactions.starts) >= _LEAST_HISTORY).sum()) < 2 * ENOUGH_USERS:
        sentences.append(
            f"fewer than {2 * ENOUGH_USERS} users have {_LEAST_HISTORY} events: the fusion is the default and no metrics could be computed"
        )
    sentences.append("this version trains no sequential view: its weight is 0")
    return tuple(sentences)


def write_bundle(
    model: Model,
    interactions: Interactions,
    results: Mapping[str, Mapping[str, Estimate]],
    *,
    tenant_id: TenantId,
    text_model: str,
    directory: Path,
) -> tuple[BundleId, Path, dict[str, Any]]:
    """Writes the model as a bundle and returns its id, folder and manifest. The folder appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".training-") as unfinished:
        folder = Path(unfinished) / "bundle"
        folder.mkdir()
        shapes = _write_files(model, folder)
        manifest = {
            "format": FORMAT_VERSION,
            "tenant": tenant_id,
            "create_time": datetime.now(UTC).isoformat(timespec="seconds"),
            "items": len(model.item_ids),
            "views": list(VIEWS),
            "view_dimensions": VIEW_DIMENSIONS,
            "view_weights": {view: float(weight) for view, weight in zip(VIEWS, model.view_weights, strict=True)},
            "features": list(RANKER_FEATURES),
            "text_model": text_model,
            "fusion": model.weights.to_json(),
            "decays": asdict(model.decays),
            "metrics": {name: {metric: found.to_json() for metric, found in row.items()} for name, row in results.items()},
            "lineage": _lineage(interactions),
            "files": {path.name: _described(path, shapes.get(path.name)) for path in sorted(folder.iterdir())},
        }
        raw = json.dumps(manifest, indent=1, sort_keys=True).encode()
        (folder / MANIFEST).write_bytes(raw)
        bundle_id = bundle_id_of(raw)
        path = directory / bundle_id
        shutil.rmtree(path, ignore_errors=True)
        folder.rename(path)
    return bundle_id, path, manifest


def _write_files(model: Model, folder: Path) -> dict[str, list[int]]:
    counts = model.counts
    arrays: dict[str, NDArray[Any]] = {
        "factors_in": model.factors.incoming,
        "factors_out": model.factors.outgoing,
        "popularity": model.popularity,
        "mass": counts.mass,
        "users": counts.users,
    }
    for name, matrix in (("transitions", counts.transitions), ("together", counts.together)):
        arrays |= {f"{name}_indptr": matrix.indptr, f"{name}_indices": matrix.indices, f"{name}_data": matrix.data}
    for name, kind in ARRAYS.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(arrays[name], np.dtype(kind)), allow_pickle=False)
    (folder / ITEM_IDS).write_text("".join(f"{json.dumps(item_id)}\n" for item_id in model.item_ids), encoding="ascii")
    (folder / RANKER).write_bytes(ranker_model(model.weights).SerializeToString())
    return {f"{name}.npy": list(arrays[name].shape) for name in ARRAYS}


def _described(path: Path, shape: list[int] | None) -> dict[str, Any]:
    with path.open("rb") as handle:
        description: dict[str, Any] = {"sha256": hashlib.file_digest(handle, "sha256").hexdigest(), "bytes": path.stat().st_size}
    return description if shape is None else {**description, "shape": shape}


def _lineage(interactions: Interactions) -> dict[str, Any]:
    """Returns what the bundle was fitted on: sizes, range of time, and a hash of the arrays."""
    digest = hashlib.sha256()
    for array in (interactions.users, interactions.items, interactions.times, interactions.weights):
        digest.update(np.ascontiguousarray(array).tobytes())
    times = interactions.times
    return {
        "events": len(times),
        "users": int((np.diff(interactions.starts) > 0).sum()),
        "first_event_s": float(times.min()) if len(times) else None,
        "last_event_s": float(times.max()) if len(times) else None,
        "sha256": digest.hexdigest(),
    }
