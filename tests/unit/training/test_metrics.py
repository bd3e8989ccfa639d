from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidFieldError
from training.metrics import Metric, coverage, estimates, parse_metrics, target_ranks, top_items, user_values


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[float], list[int], list[int], int]:
    """Scores with many ties, masked items, targets (some masked or unknown) and K."""
    items = draw(st.integers(1, 12))
    scores = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=items, max_size=items))
    masked = draw(st.lists(st.integers(0, items - 1), unique=True))
    targets = draw(st.lists(st.integers(-1, items - 1), min_size=1, max_size=5, unique=True))
    return scores, masked, targets, draw(st.integers(1, 15))


@given(_cases())
def test_metrics_equal_sorting_everything(case: tuple[list[float], list[int], list[int], int]) -> None:
    """Ranks by counting give the metrics of a full sort with ties by row, masks left out."""
    scores, masked, targets, k = case
    order = [item for item in sorted(range(len(scores)), key=lambda item: (-scores[item], item)) if item not in masked]
    hits = [order.index(target) for target in targets if target in order and order.index(target) < k]
    places = [order.index(target) for target in targets if target in order]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(targets))))
    expected = {
        "hr": float(bool(hits)),
        "recall": len(hits) / len(targets),
        "ndcg": sum(1 / math.log2(place + 2) for place in hits) / ideal,
        "mrr": 1 / (min(places) + 1) if places else 0.0,
    }
    line = np.array([scores], np.float32)
    (ranks,) = target_ranks(line, [np.array(masked, np.int64)], [np.array(targets, np.int64)])
    found = user_values(ranks, [Metric("hr", k), Metric("recall", k), Metric("ndcg", k), Metric("mrr", 0)])
    assert found == pytest.approx(list(expected.values()))
    listed = top_items(line, k)[0]
    assert [item for item in listed.tolist() if item >= 0] == order[:k]


def test_all_masked_is_a_miss() -> None:
    """A user who has everything gets zeros, not an error."""
    (ranks,) = target_ranks(np.zeros((1, 2), np.float32), [np.array([0, 1])], [np.array([1])])
    assert user_values(ranks, [Metric("hr", 10), Metric("mrr", 0)]) == [0.0, 0.0]


def test_intervals_hold_the_mean_and_shrink() -> None:
    """The interval surrounds the mean, and four times the users make it about half as wide."""
    generator = np.random.default_rng(1)
    few, many = ((generator.random((users, 1)) < 0.3).astype(float) for users in (400, 1600))
    (small,), (large,) = estimates(few), estimates(many)
    assert small.low < small.value < small.high
    assert (large.high - large.low) == pytest.approx((small.high - small.low) / 2, rel=0.25)


def test_coverage_counts_distinct_items() -> None:
    """Two users with the same list cover no more than one."""
    assert coverage(np.array([[0, 1], [0, 1]]), 4).value == 0.5
    assert coverage(np.array([[0, -1]]), 4).value == 0.25


@pytest.mark.parametrize("text", ["", "ndcg", "ndcg@0", "mrr@5", "auc@10", "ndcg@10,,hr@1"])
def test_metrics_that_are_not_offered_are_refused(text: str) -> None:
    """The error says which are offered."""
    with pytest.raises(InvalidFieldError, match="metrics"):
        parse_metrics(text)


def test_metrics_are_parsed_once_each() -> None:
    """Names come back as written, repeats once."""
    assert [metric.name for metric in parse_metrics("NDCG@10, mrr,recall@20,mrr")] == ["ndcg@10", "mrr", "recall@20"]
