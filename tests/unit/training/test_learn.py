from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad

from server.domain.ranking import RANKER_FEATURES
from server.retrieval.fusion import FusionWeights
from training.learn import ENOUGH_CASES, Learning, learn, ndcg, smooth_ndcg
from training.ranking_cases import Case, Cases, padded

_WEIGHTS = FusionWeights(sparse=1.0, collaborative=0.0, popularity=0.0, semantic=0.0, contextual=0.0)
_CANDIDATES = 12


def _cases(count: int, *, category: float, seed: int = 0) -> Cases:
    """Returns cases whose target is drawn by the transitions, and `category` times as much by the category."""
    generator = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        rows = np.zeros((_CANDIDATES, len(RANKER_FEATURES)), np.float32)
        rows[:, RANKER_FEATURES.index("transitions")] = generator.uniform(0, 1, _CANDIDATES)
        rows[:, RANKER_FEATURES.index("category_affinity")] = generator.uniform(0, 1, _CANDIDATES)
        rows[:, RANKER_FEATURES.index("history_length")] = generator.uniform(0, 5)
        pull = np.log(rows[:, RANKER_FEATURES.index("transitions")] + 1e-4) + category * rows[:, RANKER_FEATURES.index("category_affinity")]
        chances = np.exp(pull - pull.max())
        target = generator.choice(_CANDIDATES, p=chances / chances.sum())
        cases.append(Case.whole(rows, (np.arange(_CANDIDATES) == target).astype(np.float32)))
    return padded(cases)


def _learn(cases: Cases) -> Learning:
    return learn(cases, _WEIGHTS, progress=lambda _step, _share: None)


def test_a_network_learns_what_the_fusion_does_not_know() -> None:
    """Where the category decides it gains, and ranks fresh cases better."""
    found = _learn(_cases(450, category=6.0))
    assert found.ranker.network is not None
    assert found.gain > 3 * found.gain_error
    fresh = _cases(600, category=6.0, seed=1)
    flat = fresh.features.reshape(-1, len(RANKER_FEATURES))
    fusion, learned = (
        ndcg(fresh, ranker.scores(flat).reshape(fresh.valid.shape)).mean() for ranker in (type(found.ranker)(_WEIGHTS), found.ranker)
    )
    assert learned > fusion + 0.05


def test_the_fusion_stays_where_nothing_is_to_be_gained() -> None:
    """What is already known in full cannot be bettered by more than chance."""
    assert _learn(_cases(ENOUGH_CASES, category=0.0)).ranker.network is None


def test_few_cases_teach_nothing() -> None:
    """Below the least number the fusion ranks, whatever the cases say, and still foretells."""
    found = _learn(_cases(ENOUGH_CASES - 1, category=6.0))
    assert found.ranker.network is None
    assert found.to_json()["kind"] == "fusion"
    assert found.to_json()["shared_out"]
    assert len(found.reliability.probabilities) == (ENOUGH_CASES - 1) * _CANDIDATES


def test_no_cases_give_the_fusion() -> None:
    """Nothing to learn from is no fault."""
    found = _learn(padded(()))
    assert found.ranker.network is None
    assert len(found.reliability.outcomes) == 0


def test_probabilities_are_those_of_unseen_cases() -> None:
    """What is foretold together is what came, and the best are likelier than the rest."""
    reliability = _learn(_cases(450, category=6.0)).reliability
    assert reliability.probabilities.mean() == pytest.approx(1 / _CANDIDATES, rel=0.1)
    likely = reliability.probabilities > np.quantile(reliability.probabilities, 0.95)
    assert reliability.probabilities[likely].mean() == pytest.approx(reliability.outcomes[likely].mean(), rel=0.3)


def test_the_network_foretells_in_the_units_of_the_one_that_serves() -> None:
    """Networks of folds differ in origin and scale; what is likeliest on fresh cases comes about as often as foretold all the same."""
    ranker, fresh = _learn(_cases(450, category=6.0)).ranker, _cases(1500, category=6.0, seed=1)
    assert ranker.network is not None
    foretold = np.stack([ranker.probabilities(features) for features in fresh.features])
    best = foretold.argmax(axis=1)
    assert foretold.max(axis=1).mean() == pytest.approx((fresh.gains[np.arange(len(fresh)), best] > 0).mean(), rel=0.1)


def test_a_goal_worth_more_pulls_the_network_its_way() -> None:
    """Of two contradicting kinds of users the ranker serves those who bring more."""
    liking = _cases(250, category=6.0)
    features = np.concatenate([liking.features, liking.features])
    turned = 1.0 - liking.features[..., RANKER_FEATURES.index("category_affinity")]
    features[250:, :, RANKER_FEATURES.index("category_affinity")] = turned
    gains = np.concatenate([liking.gains, liking.gains])
    weight = {}
    for worth in (0.1, 10.0):
        scaled = gains.copy()
        scaled[250:] *= worth
        everything = np.ones(gains.shape, np.bool_)
        both = Cases(features, everything, scaled, everything, everything.astype(np.float32))
        ranker = _learn(both).ranker
        rows = np.full((2, len(RANKER_FEATURES)), 0.5, np.float32)
        rows[:, RANKER_FEATURES.index("category_affinity")] = (0.1, 0.9)
        low, high = ranker.scores(rows).tolist()
        weight[worth] = high - low
    assert weight[0.1] > weight[10.0] + 0.1


def test_the_smooth_measure_has_the_gradient_it_says() -> None:
    """Padding takes no part."""
    cases = _cases(5, category=1.0)
    cases.valid[:, 9:] = False
    cases.gains[:, 9:] = 0
    cases.gains[:, 0] = 2.0
    shape = cases.valid.shape
    start = np.random.default_rng(2).normal(0, 1, cases.valid.size)
    error = check_grad(
        lambda x: smooth_ndcg(cases, x.reshape(shape))[0], lambda x: smooth_ndcg(cases, x.reshape(shape))[1].ravel().astype(float), start
    )
    assert error < 1e-5
    assert not smooth_ndcg(cases, start.reshape(shape))[1][:, 9:].any()


def test_ndcg_is_one_for_the_best_order_and_falls_with_the_place() -> None:
    """The chosen first, third, and past the tenth."""
    cases = _cases(1, category=0.0)
    cases.gains[0] = np.arange(_CANDIDATES) == 0
    scores = [np.array([[first, *np.linspace(1, 0, _CANDIDATES - 1)]], np.float32) for first in (2.0, 0.85, -1.0)]
    assert [ndcg(cases, one).item() for one in scores] == pytest.approx([1.0, 0.5, 0.0])


def test_a_ranker_without_cases_is_not_calibrated() -> None:
    """Where nothing was held out the ranker says so, and its probabilities are not to be shown."""
    empty = _cases(1, category=0.0).select(np.zeros(1, np.bool_))
    assert not _learn(empty).to_json()["shared_out"]
