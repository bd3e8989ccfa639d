from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.calibration_fit import UNKNOWN, fit_calibration


@given(st.lists(st.tuples(st.floats(-50, 50, width=32), st.booleans()), min_size=1, max_size=200))
def test_a_calibration_rises_with_the_score_and_is_a_probability(pairs: list[tuple[float, bool]]) -> None:
    """Whatever happened."""
    scores = np.array([score for score, _ in pairs], np.float32)
    calibration = fit_calibration(scores, np.array([outcome for _, outcome in pairs]))
    asked = np.sort(np.concatenate([scores, [-1e6, 1e6]])).astype(np.float32)
    found = calibration.of(asked)
    assert (np.diff(found) >= -1e-6).all()
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (np.diff(calibration.knots) >= 0).all()


def test_what_is_foretold_comes_as_often() -> None:
    """On other draws from the same world, in every tenth of the scores."""
    generator = np.random.default_rng(5)

    def world(count: int) -> tuple[np.ndarray, np.ndarray]:
        scores = generator.normal(-3, 1.5, count).astype(np.float32)
        return scores, generator.uniform(0, 1, count) < 1 / (1 + np.exp(-scores))

    calibration = fit_calibration(*world(40_000))
    scores, outcomes = world(40_000)
    foretold = calibration.of(scores)
    for part in np.array_split(np.argsort(scores), 10):
        rate = outcomes[part].mean()
        assert abs(foretold[part].mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / len(part)) + 0.002
    best = scores > 1
    assert abs(foretold[best].mean() - outcomes[best].mean()) < 0.08


def test_nothing_chosen_foretells_nothing() -> None:
    """Where there is no outcome at all, nothing is known."""
    assert fit_calibration(np.ones(3, np.float32), np.zeros(3, np.bool_)) is UNKNOWN
