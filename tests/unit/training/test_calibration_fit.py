from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.retrieval.probability import shares
from training.calibration_fit import UNKNOWN, fit_calibration


@given(st.lists(st.tuples(st.floats(-50, 50, width=32), st.booleans(), st.integers(0, 3)), min_size=1, max_size=200), st.integers(1, 5))
def test_a_calibration_rises_with_the_score_and_is_in_bounds(rows: list[tuple[float, bool, int]], cases: int) -> None:
    """Whatever happened."""
    rows = rows * cases
    scores, outcomes, counts = (np.array(column).reshape(cases, -1) for column in zip(*rows, strict=True))
    calibration = fit_calibration(scores.astype(np.float32), outcomes, counts.astype(np.float32))
    asked = np.sort(np.concatenate([scores.ravel(), [-1e6, 1e6]])).astype(np.float32)
    found = calibration.of(asked)
    assert (np.diff(found) >= -1e-6).all()
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (np.diff(calibration.knots) >= 0).all()


_CASES, _CANDIDATES = 1500, 200


def _world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores of candidates, float32, (S, C), and the chosen one of each case, (S,), drawn by how much the scores are worth."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(generator.normal(0, 1, (_CASES, 1)), 1, (_CASES, _CANDIDATES)).astype(np.float32)
    worth = 1 / (1 + np.exp(4 - 2 * scores))
    drawn = generator.uniform(0, 1, _CASES)[:, None] * worth.sum(axis=1, keepdims=True)
    return scores, (np.cumsum(worth, axis=1) < drawn).sum(axis=1)


def _chosen(chosen: np.ndarray, candidates: int) -> np.ndarray:
    return np.arange(candidates)[None, :] == chosen[:, None]


@pytest.mark.parametrize("left", [_CANDIDATES, 50, 10, 2])
def test_what_is_foretold_comes_as_often_whatever_is_left_to_choose_from(left: int) -> None:
    """Calibrated on whole catalogues, for other cases of the same world: the best that a filter left are chosen as often as foretold."""
    scores, chosen = _world(5)
    calibration = fit_calibration(scores, _chosen(chosen, _CANDIDATES), np.ones(scores.shape, np.float32))
    scores, chosen = _world(6)
    keep = np.random.default_rng(7).permuted(np.tile(np.arange(_CANDIDATES), (_CASES, 1)), axis=1)
    keep = np.concatenate([chosen[:, None], keep[keep != chosen[:, None]].reshape(_CASES, -1)], axis=1)[:, :left]
    foretold = np.stack([shares(calibration.of(row)) for row in np.take_along_axis(scores, keep, axis=1)])
    order = np.argsort(-foretold, axis=1, kind="stable")
    best, came = order[:, : max(left // 10, 1)], order == 0
    rate = came[:, : best.shape[1]].sum(axis=1).mean()
    assert np.take_along_axis(foretold, best, axis=1).sum(axis=1).mean() == pytest.approx(rate, rel=0.12)


def test_a_few_that_stand_for_many_are_worth_as_much() -> None:
    """The poor half of each case, told by a fifth of them, leaves the best much the same share."""
    scores, chosen = _world(8)
    outcomes = _chosen(chosen, _CANDIDATES)
    whole = fit_calibration(scores, outcomes, np.ones(scores.shape, np.float32))
    poor = (scores < np.median(scores, axis=1, keepdims=True)) & ~outcomes
    counts = np.where(poor, np.where(np.random.default_rng(9).uniform(0, 1, scores.shape) < 0.2, 5, 0), 1).astype(np.float32)
    part = fit_calibration(scores, outcomes, counts)
    best = [np.mean([shares(one.of(row)).max() for row in scores]) for one in (part, whole)]
    assert best[0] == pytest.approx(best[1], rel=0.05)


def test_nothing_chosen_foretells_nothing() -> None:
    """Where there is no outcome at all, or none that counts, nothing is known."""
    ones, nothing = np.ones((1, 3), np.float32), np.zeros((1, 3), np.bool_)
    assert fit_calibration(ones, nothing, ones) is UNKNOWN
    assert fit_calibration(ones, ~nothing, np.zeros((1, 3), np.float32)) is UNKNOWN
