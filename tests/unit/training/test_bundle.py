from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from server.domain.ids import ItemId, TenantId
from server.domain.items import Item
from server.domain.profiles import Interaction
from server.errors import CorruptDataError
from server.inference.sequence import EncodedHistory, action_rows, known_actions, sequence_inputs
from server.retrieval.affinity import Affinities
from server.retrieval.bundle import ARRAYS, Bundle, load_bundle
from server.retrieval.fusion import feature_matrix, retrieval_score
from server.retrieval.sources import CsrCounts
from server.retrieval.vectors import SEMANTIC, hash_features
from tests.unit.training.synthetic import arrays_of, events_of, no_report, two_camps, two_tastes
from training.bundle import TrainedBundle, train, write_bundle
from training.counting import Counts
from training.data import History, RawEvents, Vocabulary, raw_events
from training.model import Decays, Model, Scorer, fit
from training.views.collaborative import Factors
from training.views.semantic_map import ItemTexts
from training.views.sequential.fit import Sequential

_TENANT = TenantId("t")
_HOURS = np.array([0.0, 3600.0, 7200.0])


def _train(
    events: RawEvents, directory: Path, *, item_ids: tuple[ItemId, ...] | None = None, texts: bool = True, sequential: bool = True
) -> TrainedBundle:
    ids = item_ids if item_ids is not None else tuple(sorted(set(events.items)))
    generator = np.random.default_rng(3)
    raw = generator.standard_normal((len(ids), 384)).astype(np.float32)
    vectors = dict(zip(ids, raw / np.linalg.norm(raw, axis=1, keepdims=True), strict=True)) if texts else {}
    items = [Item(item_id=one, title=one) for one in ids]
    return train(events, vectors, items=items, tenant_id=_TENANT, text_model="test", directory=directory, sequential=sequential)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    """A bundle of two camps of users."""
    return _train(events_of(two_camps(users=120)), tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def bundle(trained: TrainedBundle) -> Bundle:
    """The same, read back."""
    return load_bundle(trained.directory)


def test_a_bundle_says_how_it_did_and_what_it_is_made_of(trained: TrainedBundle, bundle: Bundle) -> None:
    """The folder's name is the id, and the manifest holds metrics, lineage and the hash of each file."""
    assert trained.directory.name == trained.bundle_id == bundle.bundle_id
    assert trained.passes
    assert bundle.manifest["metrics"]["aisle"]["hr@10"]["value"] == 1.0
    assert bundle.manifest["lineage"]["events"] == 720
    expected = {"item_ids.txt", "ranker.onnx", "sequence.onnx", "report.json", "report.html", *(f"{name}.npy" for name in ARRAYS)}
    assert set(bundle.manifest["files"]) == expected


def test_only_a_calibration_that_is_to_be_shared_out_counts(bundle: Bundle) -> None:
    """What earlier versions calibrated was no share of anything: such a bundle has no probabilities to show."""
    assert bundle.calibrated
    assert not replace(bundle, manifest={**bundle.manifest, "ranking": {"calibrated": True}}).calibrated


def test_the_report_tells_the_same_metrics(trained: TrainedBundle) -> None:
    """What the bundle's page shows is what its manifest and its gate were decided on."""
    report = json.loads((trained.directory / "report.json").read_bytes())
    assert report["results"]["aisle"]["ndcg@10"] == trained.manifest["metrics"]["aisle"]["ndcg@10"]
    assert report["lineage"] == trained.manifest["lineage"]


def test_serving_gives_the_scores_that_evaluation_ranks(bundle: Bundle) -> None:
    """Features made item by item from the loaded bundle fuse to the scores of the offline model, for every item."""
    model = Model(
        item_ids=bundle.item_ids,
        counts=_counts(bundle),
        regression=_csr(bundle, "regression"),
        factors=_factors(bundle),
        popularity=np.array(bundle.arrays["popularity"]),
        semantic_views=None,
        decays=_decays(bundle),
        weights=bundle.weights,
        view_weights=np.ones(4, np.float32),
        event_types=("click",),
        sequential=_sequential(bundle),
    )
    ids = [bundle.item_ids[row] for row in (2, 4, 6)]
    history = [_click(item_id) for item_id in ids]
    rows = np.array([2, 4, 6])
    offline = Scorer(model).scores([History(rows, np.ones(3, np.float32), np.zeros(3, np.int64), _HOURS)])[0]
    encoded = EncodedHistory(bundle.space.sequence.items[rows], action_rows(["click"] * 3, known_actions(("click",))), _HOURS)
    assert bundle.sequence_path is not None
    sequential = onnxruntime.InferenceSession(bundle.sequence_path).run(["vector"], sequence_inputs([encoded]))[0][0]
    user = bundle.space.user_vector(history, np.zeros((3, 384), np.float32), sequential=sequential)
    vectors = np.zeros((len(bundle.item_ids), 1536), np.float32)
    vectors[:, 384:768] = bundle.arrays["factors_out"]
    vectors[:, 768:1152] = bundle.arrays["sequence_items"]
    shares = bundle.sparse_source().fold_in(history).of_all(len(bundle.item_ids))
    nothing = np.zeros(len(bundle.item_ids), np.float32)
    features = feature_matrix(
        user.contributions(vectors),
        transitions=shares.transitions,
        cosine=shares.cosine,
        regression=shares.regression,
        popularity=np.array([bundle.popularity.get(item_id, 0.0) for item_id in bundle.item_ids], np.float32),
        trending=nothing,
        freshness=nothing,
        history_length=3,
        affinities=Affinities.unknown(len(bundle.item_ids)),
    )
    assert bundle.weights.sequential > 0
    assert shares.regression.any()
    np.testing.assert_allclose(retrieval_score(features, bundle.weights), offline, atol=2e-4)


@pytest.mark.parametrize(
    "part",
    [
        "manifest.json",
        "item_ids.txt",
        "ranker.onnx",
        "sequence.onnx",
        "report.html",
        "factors_in.npy",
        "together_indices.npy",
        "semantic_idf.npy",
    ],
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_parts_are_refused_by_name(trained: TrainedBundle, tmp_path: Path, part: str, damage: str) -> None:
    """A changed, shortened or missing file is named."""
    for file in trained.directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    raw = bytearray((tmp_path / part).read_bytes())
    if damage == "remove":
        (tmp_path / part).unlink()
    else:
        raw[len(raw) // 2] ^= 0xFF
        (tmp_path / part).write_bytes(bytes(raw) if damage == "flip" else bytes(raw[: len(raw) // 2]))
    with pytest.raises(CorruptDataError) as caught:
        load_bundle(tmp_path)
    assert caught.value.metadata["part"] == part


def test_parts_of_two_bundles_do_not_mix(trained: TrainedBundle, tmp_path: Path) -> None:
    """A whole file of another bundle is refused."""
    other = _train(events_of(two_camps(users=80)), tmp_path, sequential=False)
    (other.directory / "users.npy").write_bytes((trained.directory / "users.npy").read_bytes())
    with pytest.raises(CorruptDataError, match=r"users\.npy"):
        load_bundle(other.directory)


@pytest.mark.parametrize("axes", [{"place": 4.0, "season": 0.1}, {}], ids=["learned", "alike"])
def test_a_bundle_keeps_what_of_the_context_counts(tmp_path: Path, axes: dict[str, float]) -> None:
    """The axes' weights come back with the bundle, and its users' contextual views are those of the model; what has no weight counts 1."""
    vocabulary, interactions = arrays_of(two_camps())
    model = replace(fit(interactions, vocabulary.item_ids), context_axes=axes)
    _, path, _ = write_bundle(
        model, interactions, {}, no_report(model, interactions), tenant_id=_TENANT, text_model="", directory=tmp_path, ranking={}
    )
    asked, nothing = {"place=porto": 1.0, "season=summer": 1.0, "style=rustic": 1.0}, np.zeros((0, 384), np.float32)
    served = load_bundle(path).space.user_vector((), nothing, asked).views[3]
    wanted = {"place=porto": axes.get("place", 1.0), "season=summer": axes.get("season", 1.0), "style=rustic": 1.0}
    np.testing.assert_array_equal(served, hash_features(wanted))
    np.testing.assert_array_equal(served, model.space().user_vector((), nothing, asked).views[3])


def test_a_catalogue_without_events_gives_a_bundle(tmp_path: Path) -> None:
    """A new tenant gets text and context, and is told what is off."""
    found = _train(raw_events([]), tmp_path, item_ids=(ItemId("a"), ItemId("b")))
    bundle = load_bundle(found.directory)
    assert not found.results
    assert any("no events" in sentence for sentence in found.missing)
    assert bundle.space.user_vector([], np.zeros((0, 384), np.float32)).query.shape == (1536,)
    assert bundle.manifest["view_weights"]["semantic"] > 0
    assert bundle.manifest["view_weights"]["collaborative"] == 0
    assert not any(shares.any() for shares in bundle.sparse_source().fold_in([_click("a")])[1:])


def test_events_on_items_outside_the_catalogue_are_left_out(tmp_path: Path) -> None:
    """They cannot be recommended, and the report counts them."""
    found = _train(events_of({"u": ["a", "gone"], "v": ["a", "b"]}), tmp_path, item_ids=(ItemId("a"), ItemId("b")), texts=False)
    assert load_bundle(found.directory).item_ids == ("a", "b")
    assert any(sentence.startswith("1 events") for sentence in found.missing)
    assert any("semantic view is off" in sentence for sentence in found.missing)


def test_the_same_data_gives_the_same_arrays(trained: TrainedBundle, tmp_path: Path) -> None:
    """Training is repeatable: every file is the same but for the times, of the manifest and of a report's epochs."""
    again = _train(events_of(two_camps(users=120)), tmp_path)
    files, before = ({name: file for name, file in one.manifest["files"].items() if "report" not in name} for one in (again, trained))
    assert files == before
    assert again.manifest["lineage"]["sha256"] == trained.manifest["lineage"]["sha256"]


def _click(item: str) -> Interaction:
    return Interaction(ItemId(item), "click", datetime(2024, 1, 1, tzinfo=UTC))


def _counts(bundle: Bundle) -> Counts:
    return Counts(_csr(bundle, "transitions"), _csr(bundle, "together"), bundle.arrays["mass"], bundle.arrays["users"])


def _csr(bundle: Bundle, name: str) -> CsrCounts:
    return CsrCounts(*(bundle.arrays[f"{name}_{part}"] for part in ("indptr", "indices", "data")))


def _sequential(bundle: Bundle) -> Sequential:
    assert bundle.sequence_path is not None
    return Sequential(space=bundle.space.sequence, onnx=bundle.sequence_path.read_bytes(), exact=b"", epochs=1)


def _factors(bundle: Bundle) -> Factors:
    return Factors(np.array(bundle.arrays["factors_in"]), np.array(bundle.arrays["factors_out"]))


def _decays(bundle: Bundle) -> Decays:
    return Decays(**bundle.manifest["decays"])


def test_vocabulary_rows_are_id_order() -> None:
    """Ties broken by row are ties broken by id."""
    assert Vocabulary.of([events_of({"b": ["z", "a"], "a": ["m"]})]).item_ids == ("a", "m", "z")


def test_the_server_makes_the_semantic_views_that_training_scored(tmp_path: Path) -> None:
    """A bundle's map gives an item, known or new, the view that training computed from the same text vector and words."""
    vocabulary, interactions, titles = two_tastes()
    ids = vocabulary.item_ids
    raw = np.random.default_rng(3).standard_normal((len(ids), 384)).astype(np.float32)
    vectors = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    items = [Item(item_id=item_id, title=title) for item_id, title in zip(ids, titles, strict=True)]
    model = fit(interactions, ids, ItemTexts.of(ids, vectors, items))
    assert len(model.semantic.terms)
    _, path, manifest = write_bundle(
        model, interactions, {}, no_report(model, interactions), tenant_id=_TENANT, text_model="test", directory=tmp_path, ranking={}
    )
    space = load_bundle(path).space
    assert manifest["format"] == 3
    np.testing.assert_allclose(space.item_vectors(items, vectors)[:, SEMANTIC], model.semantic_views, atol=1e-5)
    new = [Item(item_id=ItemId("new"), title=titles[7])]
    np.testing.assert_allclose(space.item_vectors(new, vectors[7:8])[0, SEMANTIC], model.semantic_views[7], atol=1e-5)
    user = space.user_vector([_click(ids[2]), _click(ids[5])], model.semantic_views[[2, 5]])
    offline = Scorer(model).semantic([History(np.array([2, 5]), np.ones(2, np.float32), np.zeros(2, np.int64), _HOURS[:2])])[0]
    np.testing.assert_allclose(user.contributions(space.item_vectors(items, vectors))[:, 0], offline, atol=1e-5)
