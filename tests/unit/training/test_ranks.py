from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training.synthetic import events_of
from training.data import Interactions, Vocabulary, raw_events
from training.metrics import parse_metrics
from training.ranks import Ranking, list_length_for, rank_users

_METRICS = parse_metrics("hr@2,recall@2,ndcg@2,mrr,coverage@2")
_SCORES = [0.0, 0.25, 0.5, 1.0]
_ITEMS = 6


def _quiet(_step: str, _share: float) -> None:
    pass


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[list[float]], list[list[int]], list[list[int]]]:
    """Scores with many ties, what each user has, and what each is asked for: repeats, duplicates, or nothing."""
    users = draw(st.integers(1, 5))
    rows = st.lists(st.integers(0, _ITEMS - 1), max_size=5)
    scores = st.lists(st.sampled_from(_SCORES), min_size=_ITEMS, max_size=_ITEMS)
    return tuple(draw(st.lists(part, min_size=users, max_size=users)) for part in (scores, rows, rows))


def _interactions(rows: list[list[int]]) -> Interactions:
    vocabulary = Vocabulary.of([events_of({f"u{user}": [f"i{item}" for item in range(_ITEMS)] for user in range(len(rows))})])
    return vocabulary.encode(events_of({f"u{user}": [f"i{item}" for item in items] for user, items in enumerate(rows)}))


def _ranked(case: tuple[list[list[float]], list[list[int]], list[list[int]]]) -> Ranking:
    scores, had, asked = case
    matrix = np.array(scores, np.float32)
    users = np.arange(len(scores))
    return rank_users("x", lambda some: matrix[some], users, _interactions(had), _interactions(asked), progress=_quiet)


def _expected(scores: list[float], had: list[int], asked: list[int]) -> list[float]:
    """Sorts everything, and asks for each target once; a target that the user has is a miss, and no target gives zeros."""
    order = [item for item in sorted(range(_ITEMS), key=lambda item: (-scores[item], item)) if item not in had]
    targets = sorted(set(asked))
    places = sorted(order.index(target) for target in targets if target in order)
    hits = [place for place in places if place < 2]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(2, len(targets))))
    gain = sum(1 / math.log2(place + 2) for place in hits)
    recall, ndcg = (len(hits) / len(targets), gain / ideal) if targets else (0.0, 0.0)
    return [float(bool(hits)), recall, ndcg, 1 / (places[0] + 1) if places else 0.0, 0.0]


@given(_cases())
def test_every_metric_of_every_user_equals_sorting_everything(case: tuple[list[list[float]], list[list[int]], list[list[int]]]) -> None:
    """With ties, masks, repeats, duplicates and users without targets, the one pass gives what a full sort gives."""
    found = _ranked(case)
    np.testing.assert_allclose(found.values(_METRICS), [_expected(*row) for row in zip(*case, strict=True)])


@given(_cases())
def test_coverage_counts_what_some_list_shows(case: tuple[list[list[float]], list[list[int]], list[list[int]]]) -> None:
    """The share of all items among the two best of some user, without what that user has."""
    shown = set()
    for scores, had, _ in zip(*case, strict=True):
        shown |= set([item for item in sorted(range(_ITEMS), key=lambda item: (-scores[item], item)) if item not in had][:2])
    assert _ranked(case).estimates(_METRICS)["coverage@2"].value == pytest.approx(len(shown) / _ITEMS)


@given(_cases(), st.integers(0, 63))
def test_a_part_of_the_users_is_ranked_as_they_were_in_the_whole(
    case: tuple[list[list[float]], list[list[int]], list[list[int]]], bits: int
) -> None:
    """Cutting by users keeps their values and lists."""
    found = _ranked(case)
    keep = np.array([bool(bits >> user & 1) for user in range(len(found.users))])
    part = found.of_users(keep)
    np.testing.assert_array_equal(part.values(_METRICS), found.values(_METRICS)[keep])
    np.testing.assert_array_equal(part.tops, found.tops[keep])


@given(_cases(), st.integers(0, 63))
def test_a_part_of_the_targets_keeps_its_ranks(case: tuple[list[list[float]], list[list[int]], list[list[int]]], bits: int) -> None:
    """Asking for some items only equals asking everyone for those alone; who has none of them is left out."""
    found = _ranked(case)
    wanted = {item for item in range(_ITEMS) if bits >> item & 1}
    part = found.of_targets(np.isin(found.targets, list(wanted)))
    asked = [sorted(set(items) & wanted) for items in case[2]]
    expected = [_expected(scores, had, items) for scores, had, items in zip(case[0], case[1], asked, strict=True) if items]
    np.testing.assert_allclose(part.values(_METRICS), np.array(expected).reshape(-1, 5))


def test_lists_are_as_long_as_coverage_asks_for() -> None:
    """Ten places are kept for the report, more where a metric needs them."""
    assert list_length_for(parse_metrics("ndcg@50")) == 10
    assert list_length_for(parse_metrics("coverage@20,coverage@5")) == 20


def test_nobody_to_ask_is_no_error() -> None:
    """An empty ranking has no users and no targets."""
    events = raw_events([("u", "a", "click", 0.0)])
    fitted = Vocabulary.of([events]).encode(events)
    found = rank_users("x", lambda _: np.zeros((0, 1), np.float32), np.zeros(0, np.int64), fitted, fitted, progress=_quiet)
    assert found.values(_METRICS).shape == (0, 5)
    assert found.tops.shape == (0, 10)
