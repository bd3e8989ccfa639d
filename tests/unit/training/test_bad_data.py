from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.ids import ItemId, TenantId
from server.domain.items import Item
from server.errors import AisleError, InvalidFieldError
from server.retrieval.bundle import load_bundle
from tests.unit.training.synthetic import events_of, two_camps
from training.bundle import TrainedBundle, train
from training.data import RawEvents, raw_events
from training.evaluate import Evaluation, evaluate
from training.metrics import parse_metrics

_METRICS = parse_metrics("hr@1,recall@3,ndcg@10,mrr,coverage@2")
_Rows = list[tuple[str, str, str, float]]
_ROWS = st.lists(
    st.tuples(
        st.sampled_from([f"u{number}" for number in range(6)]),
        st.sampled_from([f"i{number}" for number in range(5)]),
        st.sampled_from(["click", "purchase", "hide", "dismiss", "anything", ""]),
        st.one_of(st.just(0.0), st.floats(-1e11, 1e11), st.floats(-1e-300, 1e-300)),
    ),
    max_size=25,
)


def _check(found: Evaluation) -> None:
    for row in found.results.values():
        for estimate in row.values():
            assert 0 <= estimate.low <= estimate.high <= 1
            assert 0 <= estimate.value <= 1


def _bundle(events: RawEvents, item_ids: tuple[str, ...], directory: Path) -> TrainedBundle:
    items = [Item(item_id=ItemId(item_id), title=item_id) for item_id in item_ids]
    return train(events, {}, items=items, tenant_id=TenantId("t"), text_model="", directory=directory, sequential=False)


@settings(max_examples=60, deadline=None)
@given(rows=_ROWS, test=_ROWS, validation=st.none() | _ROWS, further=st.sets(st.sampled_from(["i0", "i4", "z"])))
def test_any_small_files_are_evaluated_or_refused(rows: _Rows, test: _Rows, validation: _Rows | None, further: set[str]) -> None:
    """Whatever a few users did at whatever times: a table whose every number is a share, or an error that says why not."""
    try:
        found = evaluate(
            raw_events(rows),
            raw_events(test),
            metrics=_METRICS,
            validation=None if validation is None else raw_events(validation),
            items=[Item(item_id=ItemId(item), title=item) for item in further],
        )
    except AisleError:
        return
    _check(found)


@settings(max_examples=30, deadline=None)
@given(rows=_ROWS, catalogue=st.sets(st.sampled_from([f"i{number}" for number in range(7)])))
def test_any_small_tenant_is_trained(rows: _Rows, catalogue: set[str]) -> None:
    """Whatever a few users did with whatever items: a bundle that loads."""
    with tempfile.TemporaryDirectory() as folder:
        found = _bundle(raw_events(rows), tuple(sorted(catalogue)), Path(folder))
        bundle = load_bundle(found.directory)
        assert bundle.item_ids == tuple(sorted(catalogue))
        assert all(np.isfinite(array).all() for name, array in bundle.arrays.items() if np.asarray(array).dtype.kind == "f")


def test_halves_of_held_out_users_do_not_follow_their_names(tmp_path: Path) -> None:
    """Both halves have users where every other name in the order of ids has too little history to be held out."""
    camps = sorted(two_camps(users=120).items())
    histories = {user: items if place % 2 == 0 else items[:1] for place, (user, items) in enumerate(camps)}
    found = _bundle(events_of(histories), tuple(f"i{item:02}" for item in range(12)), tmp_path)
    assert found.results["aisle"]["ndcg@10"].value > 0


def test_what_counts_nothing_is_neither_learned_nor_asked_for(tmp_path: Path) -> None:
    """Of hides alone nothing is trained, and a test of hides alone is refused."""
    hides = raw_events((f"u{number % 50:02}", f"i{number % 7}", "hide", float(number)) for number in range(250))
    found = _bundle(hides, tuple(f"i{item}" for item in range(7)), tmp_path)
    assert not found.results
    assert any("count nothing, such as hide" in sentence for sentence in found.missing)
    with pytest.raises(InvalidFieldError, match="test: holds only events that count nothing"):
        evaluate(events_of({"u": ["a", "b"]}), hides, metrics=_METRICS)


def test_hides_in_the_test_are_not_wishes() -> None:
    """Who only hid something is not asked, and what was hidden is no target; both are counted."""
    fitted = events_of({"u": ["a", "b"], "v": ["a", "c"], "w": ["a"]})
    asked = raw_events([("u", "c", "click", 9.0), ("v", "b", "click", 9.0), ("v", "d", "hide", 9.0), ("w", "b", "dismiss", 9.0)])
    found = evaluate(fitted, asked, metrics=parse_metrics("recall@10"))
    assert found.users == 2
    assert found.results["aisle"]["recall@10"].value == 1.0
    assert any("such as hide: 2 of 4" in sentence for sentence in found.notes)


def test_strangers_get_the_popular_list() -> None:
    """A test user without fitted rows is ranked by popularity, whatever the fusion, and counted."""
    histories = {f"u{user:02}": ["a", "b", f"i{user % 3}", "z"] for user in range(50)}
    fitted = events_of({**histories, "last": ["z"]})
    found = evaluate(fitted, events_of({"stranger": ["z"], "u00": ["i1"]}), metrics=parse_metrics("hr@1"))
    assert any("test users without fitted rows: 1 of 2" in sentence for sentence in found.notes)
    alone = evaluate(fitted, events_of({"stranger": ["z"]}), metrics=parse_metrics("hr@1"))
    assert alone.results["aisle"]["hr@1"].value == alone.results["popularity"]["hr@1"].value == 1.0


def test_rows_that_cannot_be_hit_are_counted() -> None:
    """Repeats of fitted items are misses, and so are items that nobody had; the notes say how many."""
    fitted = events_of({"u": ["a", "b"], "v": ["b", "c"]})
    found = evaluate(fitted, events_of({"u": ["a", "b"], "v": ["c", "new"]}), metrics=_METRICS)
    assert found.results["aisle"]["mrr"].value < 0.6
    assert any("repeat a fitted item of the user: 3 of 4" in sentence for sentence in found.notes)
    assert any("items without fitted rows: 1 of 4" in sentence for sentence in found.notes)
    _check(found)


@pytest.mark.parametrize(
    ("validation", "says"),
    [
        pytest.param([("stranger", "a", "click", 9e9)], "validation holds nothing new of a user of train", id="unknown users"),
        pytest.param([], "validation holds nothing new of a user of train", id="empty"),
        pytest.param([("u000", "i00", "click", 0.0)], "validation rows that train holds too: 1 of 1", id="overlap"),
    ],
)
def test_a_validation_of_no_use_is_said_and_done_without(validation: _Rows, says: str) -> None:
    """The newest interactions choose the fusion instead, as if no validation had been given."""
    camps = two_camps()
    fitted = events_of({user: items[:-1] for user, items in camps.items()})
    asked = events_of({user: items[-1:] for user, items in camps.items()}, start_s=2e6)
    found = evaluate(fitted, asked, metrics=parse_metrics("hr@1"), validation=raw_events(validation))
    assert any(says in sentence for sentence in found.notes)
    assert any("the newest of both chooses" in sentence for sentence in found.notes)
    assert found.results["aisle"]["hr@1"].value == 1.0


def test_an_evaluation_says_what_is_off() -> None:
    """Too little data for the fusion and the sequential view is a sentence each, in the JSON too."""
    found = evaluate(events_of({"u": ["a"], "v": ["b"]}), events_of({"u": ["b"]}), metrics=_METRICS)
    assert any("the sequential view is off" in sentence for sentence in found.to_json()["notes"])
    assert any("the fusion is the default" in sentence for sentence in found.notes)


def test_duplicates_and_order_in_the_file_teach_nothing() -> None:
    """Files in reversed order, and with every row twice, give the table of the file in order."""
    camps = two_camps(users=30)
    rows = [(user, item, "click", 3600.0 * step) for user, items in camps.items() for step, item in enumerate(items[:-1])]
    asked = events_of({user: items[-1:] for user, items in camps.items()}, start_s=2e6)
    found = [evaluate(raw_events(some), asked, metrics=parse_metrics("ndcg@10")).results for some in (rows, rows[::-1])]
    assert found[0] == found[1]
    _check(evaluate(raw_events(rows + rows), asked, metrics=_METRICS))
