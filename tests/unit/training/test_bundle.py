from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from server.domain.ids import ItemId, TenantId
from server.domain.profiles import Interaction
from server.errors import CorruptDataError
from server.retrieval.bundle import ARRAYS, Bundle, load_bundle
from server.retrieval.fusion import feature_matrix, retrieval_score
from server.retrieval.sources import CsrCounts
from tests.unit.training.synthetic import events_of, two_camps
from training.bundle import TrainedBundle, train
from training.counting import Counts
from training.data import RawEvents, Vocabulary, raw_events
from training.model import Decays, Model, Scorer
from training.views.collaborative import Factors

_TENANT = TenantId("t")


def _train(events: RawEvents, directory: Path, *, item_ids: tuple[ItemId, ...] | None = None, texts: bool = True) -> TrainedBundle:
    ids = item_ids if item_ids is not None else tuple(sorted(set(events.items)))
    generator = np.random.default_rng(3)
    raw = generator.standard_normal((len(ids), 384)).astype(np.float32)
    vectors = dict(zip(ids, raw / np.linalg.norm(raw, axis=1, keepdims=True), strict=True)) if texts else {}
    return train(events, vectors, item_ids=ids, tenant_id=_TENANT, text_model="test", directory=directory)


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
    assert set(bundle.manifest["files"]) == {"item_ids.txt", "ranker.onnx", *(f"{name}.npy" for name in ARRAYS)}


def test_serving_gives_the_scores_that_evaluation_ranks(bundle: Bundle) -> None:
    """Features made item by item from the loaded bundle fuse to the scores of the offline model, for every item."""
    model = Model(
        item_ids=bundle.item_ids,
        counts=_counts(bundle),
        factors=_factors(bundle),
        popularity=np.array(bundle.arrays["popularity"]),
        text_vectors=None,
        decays=_decays(bundle),
        weights=bundle.weights,
        view_weights=np.ones(4, np.float32),
    )
    ids = [bundle.item_ids[row] for row in (2, 4, 6)]
    history = [_click(item_id) for item_id in ids]
    offline = Scorer(model).scores([(np.array([2, 4, 6]), np.ones(3, np.float32))])[0]
    user = bundle.space.user_vector(history, np.zeros((3, 384), np.float32))
    vectors = np.zeros((len(bundle.item_ids), 1536), np.float32)
    vectors[:, 384:768] = bundle.arrays["factors_out"]
    shares = bundle.sparse_source().fold_in(history)
    nothing = np.zeros(len(bundle.item_ids), np.float32)
    features = feature_matrix(
        user.contributions(vectors),
        transitions=shares.transitions,
        cosine=shares.cosine,
        popularity=np.array([bundle.popularity.get(item_id, 0.0) for item_id in bundle.item_ids], np.float32),
        trending=nothing,
        freshness=nothing,
        history_length=3,
    )
    np.testing.assert_allclose(retrieval_score(features, bundle.weights), offline, atol=2e-4)


@pytest.mark.parametrize("part", ["manifest.json", "item_ids.txt", "ranker.onnx", "factors_in.npy", "together_indices.npy"])
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
    other = _train(events_of(two_camps(users=80)), tmp_path)
    (other.directory / "users.npy").write_bytes((trained.directory / "users.npy").read_bytes())
    with pytest.raises(CorruptDataError, match=r"users\.npy"):
        load_bundle(other.directory)


def test_a_catalogue_without_events_gives_a_bundle(tmp_path: Path) -> None:
    """A new tenant gets text and context, and is told what is off."""
    found = _train(raw_events([]), tmp_path, item_ids=(ItemId("a"), ItemId("b")))
    bundle = load_bundle(found.directory)
    assert not found.results
    assert any("no events" in sentence for sentence in found.missing)
    assert bundle.space.user_vector([], np.zeros((0, 384), np.float32)).query.shape == (1536,)
    assert bundle.manifest["view_weights"]["semantic"] > 0
    assert bundle.manifest["view_weights"]["collaborative"] == 0
    assert not any(shares.any() for shares in bundle.sparse_source().fold_in([_click("a")]))


def test_events_on_items_outside_the_catalogue_are_left_out(tmp_path: Path) -> None:
    """They cannot be recommended, and the report counts them."""
    found = _train(events_of({"u": ["a", "gone"], "v": ["a", "b"]}), tmp_path, item_ids=(ItemId("a"), ItemId("b")), texts=False)
    assert load_bundle(found.directory).item_ids == ("a", "b")
    assert any(sentence.startswith("1 events") for sentence in found.missing)
    assert any("semantic view is off" in sentence for sentence in found.missing)


def test_the_same_data_gives_the_same_arrays(trained: TrainedBundle, tmp_path: Path) -> None:
    """Training is repeatable: every file but the manifest's time is the same."""
    again = _train(events_of(two_camps(users=120)), tmp_path)
    assert again.manifest["files"] == trained.manifest["files"]
    assert again.manifest["lineage"]["sha256"] == trained.manifest["lineage"]["sha256"]


def _click(item: str) -> Interaction:
    return Interaction(ItemId(item), "click", datetime(2024, 1, 1, tzinfo=UTC))


def _counts(bundle: Bundle) -> Counts:
    def csr(name: str) -> CsrCounts:
        return CsrCounts(*(bundle.arrays[f"{name}_{part}"] for part in ("indptr", "indices", "data")))

    return Counts(csr("transitions"), csr("together"), bundle.arrays["mass"], bundle.arrays["users"])


def _factors(bundle: Bundle) -> Factors:
    return Factors(np.array(bundle.arrays["factors_in"]), np.array(bundle.arrays["factors_out"]))


def _decays(bundle: Bundle) -> Decays:
    return Decays(**bundle.manifest["decays"])


def test_vocabulary_rows_are_id_order() -> None:
    """Ties broken by row are ties broken by id."""
    assert Vocabulary.of([events_of({"b": ["z", "a"], "a": ["m"]})]).item_ids == ("a", "m", "z")
