"""Trains a bundle and writes it as an immutable directory whose name is its content's.

Shapes: U users, N items, D dimensions of a view.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import BundleId, ItemId, TenantId, UserId
from server.domain.items import Item
from server.domain.profiles import Profile
from server.domain.ranking import RANKER_FEATURES, VIEW_DIMENSIONS, VIEWS
from server.retrieval.bundle import ARRAYS, FORMAT_VERSION, ITEM_IDS, MANIFEST, RANKER, SEQUENCE, bundle_id_of
from training import baselines
from training.data import Interactions, Progress, RawEvents, Vocabulary
from training.evaluate import Study, aisle_scores
from training.goals import ANY_GOAL, Worth
from training.learn import Learning
from training.metrics import DEFAULT_METRICS, Estimate, parse_metrics
from training.model import Model
from training.network import LearnedRanker
from training.outcomes import Shown
from training.pipeline import Engine, Task, ThisProcess, fit_alone, train_model
from training.ranker import ranker_model
from training.ranking import Logged
from training.ranks import judge, rank_users
from training.report.build import ModelReport, write_report
from training.report.findings import study_report
from training.report.lineage import lineage
from training.splits import LEAST_HISTORY, held_out
from training.views.contextual import Contexts
from training.views.semantic_map import ItemTexts

FloatArray: TypeAlias = NDArray[np.float32]

ENOUGH_USERS = 20
"""Users with a held-out interaction that a fusion can be chosen on. With fewer the default is kept."""


_JUDGED = 20_000
"""Users that metrics are of, drawn where there are more: ranking all items for all users would grow with the product of both, and the
interval of NDCG@10 is about .006 wide by then."""


@dataclass(frozen=True, slots=True)
class TrainedBundle:
    """A bundle on disk, and how it did."""

    bundle_id: BundleId
    directory: Path
    manifest: Mapping[str, Any]
    results: Mapping[str, Mapping[str, Estimate]]
    """Contender -> metric -> estimate, on each user's last interaction; empty when there were too few."""
    missing: tuple[str, ...] = field(default=())
    """What the data did not suffice for and what went wrong on the way, one sentence each."""
    learning: Learning | None = None
    """How the ranker was judged, with its reliability; None where nothing could be held out."""

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
    items: Sequence[Item],
    tenant_id: TenantId,
    text_model: str,
    directory: Path,
    shown: Sequence[Shown] = (),
    profiles: Mapping[UserId, Profile] | None = None,
    worth: Worth = ANY_GOAL,
    sequential: bool = True,
    checkpoints: Path | None = None,
    engine: Engine | None = None,
    progress: Progress = lambda _step, _share: None,
) -> TrainedBundle:
    """Returns the bundle of these events, written below `directory` as a folder named by its id.

    Of every user with enough history the last interaction is held out: the fusion is chosen on one half of the users, the metrics are of
    the other half. Then everything is fitted on all interactions. With too little data it trains what it can and says what is missing.

    Args:
        events: Interactions in any order.
        text_vectors: float32, (D,), of items that have a text.
        items: The tenant's catalogue. Items of events that are not in it are left out: they cannot be recommended.
        tenant_id: Whose bundle it is.
        text_model: Version of the encoder behind `text_vectors`.
        directory: Must exist.
        shown: Lists that the server showed; they teach the ranker where enough of them led to something.
        profiles: What users have stated; it teaches what of a request's context counts. None where nobody has.
        worth: What bringing about an event of each type is worth to the ranker.
        sequential: Whether to train the sequential view, which takes most of the time.
        checkpoints: Folder where an interrupted run is gone on with; None keeps nothing.
        engine: Where the dear stages are computed; None is this process.
        progress: Told about each step.
    """
    known = {item.item_id for item in items}
    vocabulary = Vocabulary.of([events], known)
    in_catalogue = np.fromiter((item in known for item in events.items), np.bool_, len(events.items))
    if not in_catalogue.all():
        vocabulary = replace(vocabulary, item_ids=tuple(sorted(known)))
        events = events.select(in_catalogue)
    interactions = vocabulary.encode(events)
    texts = None
    if text_vectors:
        texts = ItemTexts.of(vocabulary.item_ids, _text_matrix(vocabulary.item_ids, text_vectors), items)
    missing = _missing(interactions, texts, int((~in_catalogue).sum()), sequential=sequential)
    task = Task(
        item_ids=vocabulary.item_ids,
        event_types=vocabulary.event_types,
        items=items,
        texts=texts,
        contexts=Contexts.of(vocabulary.item_ids, items, vocabulary.user_ids, profiles) if profiles else None,
        sequential=sequential,
        checkpoints=checkpoints,
        engine=engine or ThisProcess(),
        progress=progress,
        note=missing.append,
    )
    later, before = held_out(interactions)
    asked = np.unique(interactions.users[later])
    if len(asked) >= 2 * ENOUGH_USERS:
        judges = asked[1::2]  # ids are opaque, so they are like the others
        goals = vocabulary.encode(events, worth).weights
        unseen = {vocabulary.user_ids[user] for user in judges.tolist()}
        logged = Logged([one for one in shown if one.user_id not in unseen], vocabulary)
        model, study = _choose_and_judge(interactions, (before, later), judges, task, goals, logged)
    else:
        model = fit_alone(interactions, task)
        study = Study.unjudged(model, interactions)
    results = judge(study.rankings, parse_metrics(",".join(DEFAULT_METRICS)))
    report = study_report(study, interactions, progress=progress)
    progress("writing the bundle", 0.0)
    bundle_id, path, manifest = write_bundle(
        model,
        interactions,
        results,
        report,
        tenant_id=tenant_id,
        text_model=text_model if texts is not None else "",
        directory=directory,
        ranking=study.learning.to_json() if study.learning is not None else {},
    )
    return TrainedBundle(bundle_id, path, manifest, results, tuple(dict.fromkeys(missing)), study.learning)


def _choose_and_judge(
    interactions: Interactions,
    split: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    judges: NDArray[np.int64],
    task: Task,
    goals: FloatArray,
    logged: Logged,
) -> tuple[Model, Study]:
    """Returns the model, and how it did for the users `judges`, by whom nothing was chosen.

    `split` says what is fitted meanwhile and what is asked, as `held_out` does.
    """
    before, after = (interactions.select(part) for part in split)
    judged = np.isin(after.users, judges)
    draft, model, learning = train_model(before, after.select(~judged), interactions, task, worth=goals[split[1]][~judged], logged=logged)
    asked = after.select(judged)
    contenders = {"aisle": aisle_scores(draft, before), "popularity": baselines.popularity(before), "item_knn": baselines.item_knn(before)}
    users = np.unique(asked.users)
    if len(users) > _JUDGED:
        users = np.sort(np.random.default_rng(0).choice(users, _JUDGED, replace=False))
    rankings = {name: rank_users(name, score, users, before, asked, progress=task.progress) for name, score in contenders.items()}
    return model, Study(draft, before, asked, rankings, learning, draft.sequential)


def _text_matrix(item_ids: tuple[ItemId, ...], text_vectors: Mapping[ItemId, FloatArray]) -> FloatArray:
    matrix = np.zeros((len(item_ids), VIEW_DIMENSIONS), np.float32)
    for row, item_id in enumerate(item_ids):
        if item_id in text_vectors:
            matrix[row] = text_vectors[item_id]
    return matrix


def _missing(interactions: Interactions, texts: ItemTexts | None, unknown: int, *, sequential: bool) -> list[str]:
    sentences = []
    if unknown:
        sentences.append(f"{unknown} events name items that are not in the catalogue and were left out; import those items to use them")
    if texts is None:
        sentences.append("no item has a text: the semantic view is off; import items with titles and descriptions")
    if not len(interactions.users):
        sentences.append("there are no events: the collaborative view and the item-to-item source are off; import or ingest events")
    elif not (interactions.weights > 0).any():
        sentences.append("all events are of types that count nothing, such as hide: what needs events is off; ingest what users liked")
    elif int((np.diff(interactions.starts) >= LEAST_HISTORY).sum()) < 2 * ENOUGH_USERS:
        sentences.append(
            f"fewer than {2 * ENOUGH_USERS} users have {LEAST_HISTORY} events: the fusion is the default and no metrics could be computed"
        )
    if not sequential:
        sentences.append("the sequential view was not asked for: it is off")
    return sentences


def write_bundle(
    model: Model,
    interactions: Interactions,
    results: Mapping[str, Mapping[str, Estimate]],
    report: ModelReport,
    *,
    tenant_id: TenantId,
    text_model: str,
    directory: Path,
    ranking: Mapping[str, Any],
) -> tuple[BundleId, Path, dict[str, Any]]:
    """Writes the model as a bundle and returns its id, folder and manifest. The folder appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".training-") as unfinished:
        folder = Path(unfinished) / "bundle"
        folder.mkdir()
        shapes = _write_files(model, folder)
        write_report(report, folder, title=f"Model of tenants/{tenant_id}")
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
            "context_axes": dict(model.context_axes),
            "event_types": list(model.sequence_space().event_types),
            "metrics": {name: {metric: found.to_json() for metric, found in row.items()} for name, row in results.items()},
            "ranking": dict(ranking),
            "lineage": lineage(interactions),
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
    counts, sequence = model.counts, model.sequence_space()
    arrays: dict[str, NDArray[Any]] = {
        "factors_in": model.factors.incoming,
        "factors_out": model.factors.outgoing,
        "popularity": model.popularity,
        "mass": counts.mass,
        "users": counts.users,
        "sequence_items": sequence.items,
        "sequence_stranger": sequence.stranger,
        "sequence_projection": sequence.projection,
        "semantic_dense": model.semantic.dense,
        "semantic_terms": model.semantic.terms,
        "semantic_lexical": model.semantic.lexical,
        "semantic_idf": model.semantic.idf,
    }
    for name, matrix in (("transitions", counts.transitions), ("together", counts.together), ("regression", model.regression)):
        arrays |= {f"{name}_indptr": matrix.indptr, f"{name}_indices": matrix.indices, f"{name}_data": matrix.data}
    for name, kind in ARRAYS.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(arrays[name], np.dtype(kind)), allow_pickle=False)
    (folder / ITEM_IDS).write_text("".join(f"{json.dumps(item_id)}\n" for item_id in model.item_ids), encoding="ascii")
    (folder / RANKER).write_bytes(ranker_model(model.ranker or LearnedRanker(model.weights)).SerializeToString())
    if model.sequential is not None:
        (folder / SEQUENCE).write_bytes(model.sequential.onnx)
    return {f"{name}.npy": list(arrays[name].shape) for name in ARRAYS}


def _described(path: Path, shape: list[int] | None) -> dict[str, Any]:
    with path.open("rb") as handle:
        description: dict[str, Any] = {"sha256": hashlib.file_digest(handle, "sha256").hexdigest(), "bytes": path.stat().st_size}
    return description if shape is None else {**description, "shape": shape}
