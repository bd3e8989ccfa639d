from __future__ import annotations

import pytest

from server.errors import InvalidFieldError
from tests.unit.training.synthetic import events_of, two_camps
from training.data import raw_events
from training.evaluate import evaluate
from training.metrics import parse_metrics

_METRICS = parse_metrics("hr@1,ndcg@10,mrr,coverage@1")


def test_a_checkerboard_is_learned() -> None:
    """Where the next item is certain, every user gets it first, and popularity, which cannot know the camp, does not."""
    camps = two_camps()
    train = events_of({user: items[:-2] for user, items in camps.items()})
    validation = events_of({user: items[-2:-1] for user, items in camps.items()}, start_s=1e6)
    test = events_of({user: items[-1:] for user, items in camps.items()}, start_s=2e6)
    found = evaluate(train, test, metrics=_METRICS, validation=validation)
    assert found.users == 60
    assert found.results["aisle"]["hr@1"].value == 1.0
    assert found.results["popularity"]["hr@1"].value < 0.5
    assert found.results["aisle"]["coverage@1"].value == 1.0
    assert set(found.results) == {"aisle", "popularity", "item_knn", "ease"}


def test_without_validation_the_last_interactions_choose() -> None:
    """The same holds when the fusion has to be chosen on the end of the training file."""
    camps = two_camps()
    train = events_of({user: items[:-1] for user, items in camps.items()})
    test = events_of({user: items[-1:] for user, items in camps.items()}, start_s=2e6)
    assert evaluate(train, test, metrics=_METRICS).results["aisle"]["hr@1"].value == 1.0


def test_repeats_and_unknown_items_are_misses() -> None:
    """What the user already has is not ranked, and an item nobody has cannot be hit first."""
    train = events_of({"u": ["a", "b"], "v": ["a", "c"], "w": ["b", "c"]})
    found = evaluate(train, events_of({"u": ["a"]}), metrics=_METRICS)
    assert found.results["aisle"]["hr@1"].value == 0.0
    unknown = evaluate(train, events_of({"u": ["new"]}), metrics=_METRICS)
    assert unknown.results["aisle"]["hr@1"].value == 0.0
    assert unknown.items == 4


@pytest.mark.parametrize(
    ("train", "test"),
    [
        pytest.param([("u", "a", "x", 0.0)], [("u", "b", "x", 1.0)], id="one user, one item"),
        pytest.param([("u", "a", "x", 0.0)] * 5, [("u", "a", "x", 1.0)], id="duplicates"),
        pytest.param([(f"u{n % 3}", f"i{n % 4}", "x", 0.0) for n in range(12)], [("u0", "i9", "x", 0.0)], id="equal times"),
        pytest.param([(f"u{n % 3}", f"i{n % 4}", "x", -float(n)) for n in range(12)], [("u0", "i1", "x", -99.0)], id="times before 1970"),
        pytest.param([("u", "a", "x", 0.0), ("u", "b", "x", 1.0)], [("stranger", "a", "x", 1.0)], id="unknown user"),
        pytest.param([("u", "a", "hide", 0.0), ("u", "b", "hide", 1.0)], [("u", "c", "x", 1.0)], id="nothing wanted"),
    ],
)
def test_odd_data_is_evaluated(train: list[tuple[str, str, str, float]], test: list[tuple[str, str, str, float]]) -> None:
    """Data from which little can be learned gives a table, not an error."""
    found = evaluate(raw_events(train), raw_events(test), metrics=_METRICS)
    assert found.users == 1
    assert 0.0 <= found.results["aisle"]["mrr"].value <= 1.0


def test_unknown_users_and_items_in_validation_are_no_error() -> None:
    """Validation rows of users or items that train lacks choose nothing, but are fitted."""
    train = events_of({"u": ["a", "b", "c"], "v": ["a", "b"]})
    found = evaluate(train, events_of({"u": ["d"]}), metrics=_METRICS, validation=events_of({"w": ["d"], "v": ["d"]}, start_s=1e6))
    assert found.events == 7
    assert found.results["aisle"]["mrr"].value == 1.0


def test_empty_files_are_refused() -> None:
    """The error names the part that is empty."""
    some, none = events_of({"u": ["a"]}), raw_events([])
    with pytest.raises(InvalidFieldError, match="train"):
        evaluate(none, some, metrics=_METRICS)
    with pytest.raises(InvalidFieldError, match="test"):
        evaluate(some, none, metrics=_METRICS)


def test_json_has_the_documented_shape() -> None:
    """Users, seconds, memory and, by contender and metric, value, low and high."""
    found = evaluate(events_of({"u": ["a", "b"], "v": ["a"]}), events_of({"v": ["b"]}), metrics=parse_metrics("ndcg@10")).to_json()
    assert {"users", "seconds", "peak_rss_mb", "results"} <= found.keys()
    assert set(found["results"]["aisle"]["ndcg@10"]) == {"value", "low", "high"}
