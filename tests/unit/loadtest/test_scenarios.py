"""Scenarios: users over time, thresholds, the line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.journeys import JourneyFileError, Step, generated_journeys, read_journeys
from loadtest.scenarios import SCENARIOS, Outcome, Thresholds, adjusted, crossed, one_line, percentile


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_shares_fill_the_time(name: str) -> None:
    """A scenario's stages fill its whole length: there are users until the end, and none after it."""
    one = SCENARIOS[name]
    assert sum(stage.share for stage in one.stages) == pytest.approx(1)
    assert one.users_at(0) is not None
    assert one.users_at(one.seconds * 0.999) is not None
    assert one.users_at(one.seconds * 1.001) is None


def test_a_spike_goes_up_and_comes_down() -> None:
    """The spike has its most users in the middle and as few at the end as at the beginning."""
    spike = adjusted(SCENARIOS["spike"], seconds=100, users=40)
    assert [spike.users_at(second) for second in (1, 50, 99)] == [10, 40, 10]


def test_adjusting_leaves_the_rest() -> None:
    """What was not asked for stays as the scenario has it, and 0 is a threshold like another."""
    one = adjusted(SCENARIOS["spike"], error_share=0.0, p95_ms=7.0)
    assert (one.seconds, one.users) == (SCENARIOS["spike"].seconds, SCENARIOS["spike"].users)
    assert (one.thresholds.p95_ms, one.thresholds.p99_ms) == (7.0, SCENARIOS["spike"].thresholds.p99_ms)


def test_each_crossed_threshold_is_a_sentence_with_both_figures() -> None:
    """Failures, percentiles and drift are each told with what was found and what is allowed; what holds is not told."""
    took = [10.0] * 300 + [900.0] * 300
    sentences = crossed(Thresholds(p95_ms=500, p99_ms=1000, drift=1.5), Outcome(600, 6, took, 10.0))
    assert sentences == [
        "6 of 600 calls failed (1.00%); at most 0.00% may",
        "p95 was 900 ms; at most 500 ms is allowed",
        "p95 drifted from 10 ms in the first third to 900 ms in the last; 1.5 times is allowed",
    ]
    assert crossed(Thresholds(), Outcome(3, 0, [1.0, 2.0, 3.0], 1.0)) == []


def test_a_run_without_a_call_crosses() -> None:
    """Nothing called is a failure, not a pass."""
    assert crossed(Thresholds(), Outcome(0, 0, [], 1.0)) == ["no call was made: is the server running?"]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_its_share_does_not_exceed(values: list[float], share: float) -> None:
    """The percentile is one of the values; at least the share lies at or below it, and less than the share below it."""
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


def test_the_line_says_count_rate_times_and_failures() -> None:
    """A run fits on one line."""
    line = one_line("steady", Outcome(4, 1, [1.0, 2.0, 3.0, 4.0], 2.0))
    expected = "fastest 1.0, average 2.5, p50 2.0, p95 4.0, p99 4.0, slowest 4.0 ms"
    assert line == f"steady: 4 calls in 2.0 s, 2.0/s, {expected}, 1 failed"


def test_recorded_journeys_are_read_user_by_user_in_order_of_time() -> None:
    """Lines of several users in any order become each user's steps, oldest first; events without an item are left out."""
    rows = [
        ("b", "i2", "save", "2026-01-02"),
        ("a", "i9", "view", "2026-01-05"),
        ("b", "i1", "view", "2026-01-01"),
        ("b", "", "visit", "2026-01-01"),
    ]
    lines = [json.dumps(dict(zip(("user_id", "item_id", "event_type", "occurred_at"), row, strict=True))) for row in rows]
    assert read_journeys(lines, "f") == [[Step("items/i1", "view"), Step("items/i2", "save")], [Step("items/i9", "view")]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: is no JSON object"),
        ("[]", "is no JSON object"),
        ('{"user_id": "a"}', "lacks 'event_type'"),
        ("", "no event of an item"),
    ],
)
def test_a_file_that_holds_no_journeys_is_named_with_its_line(line: str, said: str) -> None:
    """A bad file is refused with its name, the line, the fault and the command that writes a good one."""
    with pytest.raises(JourneyFileError, match=r"python -m loadtest\.journeys") as raised:
        read_journeys([line], "f.jsonl")
    assert said in str(raised.value)


def test_generated_journeys_are_of_the_demo_catalogue_and_book_after_looking() -> None:
    """Invented journeys have steps in the order of planning: nobody books what they have not looked at."""
    journeys = generated_journeys(20)
    assert journeys
    booked = 0
    for steps in journeys:
        for place, step in enumerate(steps):
            if step.event_type == "book":
                booked += 1
                assert Step(step.item, "view") in steps[:place]
    assert booked
