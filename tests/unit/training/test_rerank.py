from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from server.domain import Interaction, Item, ItemId, TenantId
from server.retrieval.affinity import NOTHING_STATED
from server.retrieval.bundle import load_bundle
from server.retrieval.index import ItemIndex
from server.service.candidates import Request, gather
from server.service.catalogue import Catalogue
from server.service.columns import eligible_mask
from tests.unit.training.synthetic import arrays_of, no_report
from training.bundle import write_bundle
from training.data import History
from training.model import Model, fit, with_facts
from training.network import INPUTS, Inputs, Layers, LearnedRanker
from training.ranking_cases import sampled_cases
from training.rerank import all_scores
from training.tuning import with_view_weights

_NOW = datetime(2024, 1, 1, tzinfo=UTC)


def _histories() -> dict[str, list[str]]:
    generator = np.random.default_rng(8)
    return {f"u{user:03}": [f"i{item:03}" for item in generator.permutation(60)[: generator.integers(3, 9)]] for user in range(150)}


def _items(ids: tuple[ItemId, ...]) -> list[Item]:
    return [
        Item(
            item_id=item_id,
            title=item_id,
            price=10.0 + place,
            categories=(f"c{place % 4}",),
            attributes={"city": f"t{place % 3}"},
            create_time=_NOW,
        )
        for place, item_id in enumerate(ids)
    ]


@pytest.fixture(scope="module")
def model() -> Model:
    """A model whose network weighs every input, so that each of them matters to the order."""
    vocabulary, interactions = arrays_of(_histories())
    fitted = with_facts(with_view_weights(fit(interactions, vocabulary.item_ids)), _items(vocabulary.item_ids))
    histories = [interactions.history(user) for user in range(40)]
    targets = [next(row for row in range(len(fitted.item_ids)) if row not in history[0]) for history in histories]
    cases = sampled_cases(fitted, histories, targets, [1.0] * len(histories))
    layers = Layers.start((4,), 1.0, 2)
    drawn = np.abs(np.random.default_rng(4).normal(0, 0.5, len(layers.packed())))
    network = (Inputs.fitted(fitted.weights, cases.features[cases.valid]), layers.unpacked(drawn))
    return replace(fitted, ranker=LearnedRanker(fitted.weights, network))


async def test_the_list_that_serves_is_the_list_that_evaluation_ranks(model: Model, tmp_path: Path) -> None:
    """Candidates, features with ranks and fits, and the exported network of the server order items as the offline scores do."""
    vocabulary, interactions = arrays_of(_histories())
    _, directory, _ = write_bundle(
        model, interactions, {}, no_report(model, interactions), tenant_id=TenantId("t"), text_model="", directory=tmp_path, ranking={}
    )
    bundle = load_bundle(directory)
    items = _items(bundle.item_ids)
    index = ItemIndex(1536)
    index.upsert(items, bundle.space.item_vectors(items, np.zeros((len(items), 384), np.float32)))
    catalogue = Catalogue.new(TenantId("t"), bundle, index, trending_origin=_NOW)
    session = onnxruntime.InferenceSession(bundle.ranker_path, providers=["CPUExecutionProvider"])
    view = index.view()
    for user in range(0, 150, 15):
        rows = interactions.history(user).rows
        history = [Interaction(vocabulary.item_ids[row], "click", _NOW) for row in rows.tolist()]
        vector = catalogue.space.user_vector(history, np.zeros((len(history), 384), np.float32))
        request = Request.of(catalogue, view, vector, history, NOTHING_STATED)
        allowed = eligible_mask(view, "").copy()
        allowed[view.rows_of([one.item_id for one in history])] = False
        candidates = await gather(request, allowed, limit=10)
        candidates.features[:, 8] = 0  # how fresh an item is depends on the day, and evaluation knows no day
        scores, _ = session.run(["scores", "probability"], {"features": candidates.features})
        served = [candidates.item_ids[place] for place in np.argsort(-scores, kind="stable")[:10]]
        offline = all_scores(model, [interactions.history(user)])[0]
        offline[rows] = -np.inf
        assert served == [vocabulary.item_ids[row] for row in np.argsort(-offline, kind="stable")[:10].tolist()]
        assert scores.max() == pytest.approx(float(offline.max()), abs=1e-3)


def test_items_that_no_source_names_come_after_the_candidates(model: Model) -> None:
    """They are in the fusion's order, none above a candidate, and every item has a finite score."""
    scores = all_scores(model, [History(np.array([0, 1]), np.ones(2, np.float32), np.zeros(2, np.int64), np.zeros(2))])[0]
    assert scores.shape == (len(model.item_ids),)
    assert np.isfinite(scores).all()


def test_every_input_of_the_network_is_exercised(model: Model) -> None:
    """The comparison above would miss a feature that never varies: only those that offline data cannot have are constant."""
    assert model.ranker is not None
    assert model.ranker.network is not None
    inputs, _ = model.ranker.network
    constant = {name for name, scale in zip(INPUTS, inputs.scale.tolist(), strict=True) if scale == 0}
    assert constant == {"semantic", "semantic_rank", "sequential", "sequential_rank", "contextual"}
