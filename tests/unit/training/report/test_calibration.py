from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidFieldError
from training.report.calibration import calibration

_FORECASTS = st.lists(st.tuples(st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=60)


@given(_FORECASTS, st.integers(1, 8))
def test_the_error_is_that_of_its_bins(forecasts: list[tuple[float, bool]], bins: int) -> None:
    """Bins hold every forecast once, ascend, share equal probabilities, and their gaps weighted by count are the error."""
    probabilities, outcomes = (np.array(column) for column in zip(*forecasts, strict=True))
    found = calibration((probabilities, outcomes), bins=bins)
    assert sum(one.count for one in found.bins) == found.count == len(forecasts)
    assert len(found.bins) <= bins
    means = [one.forecast for one in found.bins]
    assert means == sorted(set(means))
    assert found.error == pytest.approx(sum(one.count * abs(one.forecast - one.outcome) for one in found.bins) / found.count)
    assert found.brier == pytest.approx(np.mean((probabilities - outcomes) ** 2))
    # Equal probabilities are never in two bins, so there are exact sums of whole groups.
    groups = np.cumsum([np.count_nonzero(probabilities == value) for value in np.unique(probabilities)]).tolist()
    assert set(np.cumsum([one.count for one in found.bins]).tolist()) <= set(groups)


def test_one_bin_for_each_probability_is_exact() -> None:
    """With more bins than probabilities each has its own."""
    found = calibration((np.array([0.2] * 5 + [0.8] * 5), np.array([True] + [False] * 4 + [True] * 4 + [False])), bins=2)
    assert [(one.count, one.outcome) for one in found.bins] == [(5, 0.2), (5, 0.8)]
    assert found.error == pytest.approx(0.0)


@pytest.mark.parametrize("probabilities", [[], [0.5], [1.5, 0.2], [float("nan"), 0.2]])
def test_what_is_no_forecast_is_refused(probabilities: list[float]) -> None:
    """Nothing, unequal lengths, and scores that are no probabilities."""
    with pytest.raises(InvalidFieldError, match="forecasts"):
        calibration((np.array(probabilities), np.array([True, False])))
