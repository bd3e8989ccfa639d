"""What the tools make of what they have seen: rules without a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.chaos.faults import RedisPaused, TritonKilled
from loadtest.chaos.load import Answer
from loadtest.chaos.measure import Result, faulty, last_unusual, usual_rungs
from loadtest.chaos.report import BEGIN, END, rewrite
from loadtest.soak import Memory, judged, slope

FINE = Result("triton killed", "", reads=100, writes=100, recovery_s=0.0, acknowledged=100)
READ = Answer(began=10.0, seconds=0.5, kind="read", error="", rung="FULL")


def test_a_clean_result_has_no_fault() -> None:
    """Without a failed call and with every event in the table nothing is found."""
    assert faulty(FINE, TritonKilled) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lost": 1}, "1 acknowledged events are not in the table"),
        ({"doubled": 2}, "2 events are in the table more than once"),
        ({"failed_reads": 2}, "2 of 100 reads failed, the limit is 1%"),
        ({"refused_writes": 2}, "2 of 100 writes failed, the limit is 1%"),
        ({"recovery_s": None}, "not well again"),
        ({"reads": 0}, "no load"),
    ],
)
def test_each_breach_is_named(change: dict[str, object], words: str) -> None:
    """A lost event, a doubled one, too many failed calls, no recovery and no load each have their line."""
    (line,) = faulty(replace(FINE, **change), TritonKilled)  # type: ignore[arg-type]  # fields of the dataclass
    assert words in line


def test_writes_may_be_refused_while_redis_is_what_is_down() -> None:
    """Refusing an event that cannot be kept is right; losing one is not."""
    assert faulty(replace(FINE, refused_writes=100), RedisPaused) == []
    assert faulty(replace(FINE, refused_writes=100, lost=1), RedisPaused) != []


def test_a_rung_that_is_common_in_steady_state_is_nothing_unusual() -> None:
    """The last unusual answer is the last that failed or stood below the usual rungs; answers before the moment asked for do not count."""
    steady = [READ] * 8 + [replace(READ, rung="STALE_VECTOR")] * 2
    usual = usual_rungs(steady, since=0.0)
    assert usual == {"FULL", "STALE_VECTOR"}
    low = replace(READ, began=20.0, rung="STATIC")
    broken = replace(READ, began=30.0, rung="", error="UNAVAILABLE: x")
    assert last_unusual([*steady, low], usual, since=15.0) == 20.5
    assert last_unusual([*steady, low, broken], usual, since=15.0) == 30.5
    assert last_unusual([low, broken], usual, since=40.0) == 40.0
    late = replace(READ, began=30.0, rung="STALE_VECTOR", token=True)
    assert last_unusual([late], {"FULL"}, since=15.0) == 15.0
    assert last_unusual([replace(late, token=False)], {"FULL"}, since=15.0) == 30.5


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    """A page that has no place for the table is left as it is, and the error names the lines that it needs."""
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match=f"no lines {BEGIN} and {END}"):
        rewrite(page, [FINE], order=["triton killed"], note="")
    assert page.read_text() == "nothing\n"


@given(st.floats(-50, 50), st.floats(0, 1000), st.lists(st.integers(0, 600), min_size=2, max_size=40, unique=True))
def test_the_slope_of_a_line_is_its_slope(rate: float, start: float, moments: list[int]) -> None:
    """Points on a line give its slope, in whatever distances they lie."""
    assert slope([(at, start + rate * at) for at in moments]) == pytest.approx(rate, abs=1e-6)


def test_one_step_is_no_growth_and_a_leak_is() -> None:
    """Memory that steps up once has no slope; memory that creeps up has one, whatever outliers lie on it."""
    assert slope([(at, 100.0 if at < 5 else 130.0) for at in range(60)]) == 0
    assert slope([(at, 2.0 * at + (500 if at % 10 == 0 else 0)) for at in range(60)]) == pytest.approx(2.0)


def _soak(*, creep_mb: float, late_ms: float, error: str = "", lost: int = 0) -> list[str]:
    answers = [Answer(at / 10, (late_ms if at > 400 else 20) / 1000, "read", "", "FULL") for at in range(600)]
    memory = [Memory(float(at), 400 + creep_mb * at / 60, triton=300, postgres=200, redis=10) for at in range(60)]
    answers.append(replace(READ, error=error))
    return judged(answers, memory, began=0.0, seconds=60.0, lost=lost, acknowledged=50).faulty()


def test_a_soak_is_judged_by_memory_drift_failures_and_losses() -> None:
    """Steady memory and times pass; growth past 1 MB a minute, a p95 half again as long, a failed call and a lost event each fail it."""
    assert _soak(creep_mb=0.5, late_ms=25) == []
    assert "memory grows by 2.00 MB a minute" in _soak(creep_mb=2, late_ms=20)[0]
    assert "2.00 times" in _soak(creep_mb=0, late_ms=40)[0]
    assert "1 of 601 calls failed" in _soak(creep_mb=0, late_ms=20, error="INTERNAL: x")[0]
    assert "1 acknowledged events" in _soak(creep_mb=0, late_ms=20, lost=1)[0]
