"""The load tools, against the echo server and against nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench.__main__ import chosen
from loadtest.bench.case import Case
from loadtest.bench.cases import ALL
from loadtest.bench.cases.embed import texts
from loadtest.bench.cases.precision import least_cosine
from loadtest.bench.echo import METHOD
from loadtest.bench.growth import Row, a_tenant, slope
from loadtest.bench.growth import markdown as growth_markdown
from loadtest.bench.measure import BenchError, Figures, calls
from loadtest.bench.sessions import CHOICES, SERVERS, Models, Shape, measured, random_ranker
from loadtest.bench.stand import echoing
from loadtest.bench.table import BEGIN, END, HEADER, markdown, picture, ratios, rows, write_readme
from server.inference import BuiltEncoder

_ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets child processes import what the tests can."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen")]))


def test_a_closed_loop_counts_answers_time_and_the_servers_cpu() -> None:
    """Against the echo server every figure is there and positive, and no call was refused."""
    with echoing() as echo:
        found = calls(echo.grpc, [b"a", b"b"], method=METHOD, server=echo.process, in_flight=4, seconds=0.5)
    assert min(found.rps, found.p50_ms, found.p95_ms, found.p99_ms, found.cpu_us) > 0
    assert found.refused == 0


def test_an_open_loop_sends_as_many_calls_as_its_rate_says() -> None:
    """Fifty calls a second for a second are fifty calls, answered in about a second, not as fast as the server can."""
    with echoing() as echo:
        found = calls(echo.grpc, [b"a"], method=METHOD, server=echo.process, in_flight=50, seconds=1.0, rate=50)
    assert 0 < found.rps <= 52


def test_failing_calls_stop_the_benchmark() -> None:
    """A target that answers no call is an error, not a rate."""
    with echoing() as echo, pytest.raises(BenchError, match="client failed"):
        calls("127.0.0.1:9", [b"a"], method=METHOD, server=echo.process, in_flight=1, seconds=0.1)


def test_a_part_of_the_cases_brings_what_it_is_compared_with() -> None:
    """Naming a case runs its limit too; every case's limit exists; a name of nothing says what there is."""
    names = {case.name for case in ALL}
    assert {case.beside for case in ALL} - {""} <= names
    assert len(names) == len(ALL)
    assert [case.name for case in chosen(["miss @16"])] == ["echo @16", "RecommendItems miss @16"]
    with pytest.raises(BenchError, match=r"no case has 'nothing'.*EmbedTexts @1"):
        chosen(["nothing"])


def _figures(rps: float, cpu_us: float) -> Figures:
    return Figures(rps, 1.0, cpu_us, 2.0, 3.0, parts={"server": cpu_us, "redis": 1.0})


def _measure(*_: object) -> Figures:
    raise AssertionError("only rows are made here")


def test_ratios_are_medians_of_the_ratios_of_each_round() -> None:
    """A round in which everything was twice as slow changes no ratio; a target is met or missed by the median."""
    limit = Case(name="limit", measure=_measure)
    case = Case(name="case", measure=_measure, beside="limit", rate_at_least=0.5, cpu_at_most=2.5)
    rounds = [
        {"limit": _figures(1000, 100), "case": _figures(500, 300)},
        {"limit": _figures(500, 200), "case": _figures(250, 600)},
        {"limit": _figures(1000, 100), "case": _figures(700, 200)},
    ]
    assert ratios(case, rounds) == (0.5, 3.0, 1.0)
    assert ratios(limit, rounds) == (0.0, 0.0, 0.0)
    (_, row) = rows([limit, case], rounds)
    assert row[-1] == "rate >= 0.5: met; CPU <= 2.5: missed"
    assert len(row) == len(HEADER)


def test_the_table_replaces_the_last_one_in_the_readme(tmp_path: Path) -> None:
    """What stands between the two lines is replaced, what stands around them stays; without the lines nothing is written."""
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_readme(readme, markdown([["x"] * len(HEADER)]))
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\n| case |")
    assert text.endswith(f"|\n\n{END}\nafter\n")
    assert "old" not in text
    readme.write_text("nothing")
    with pytest.raises(ValueError, match="lacks the lines"):
        write_readme(readme, "x")


def test_the_picture_shows_what_was_measured_at_every_number_of_calls() -> None:
    """A case measured once is in the table, not in the picture."""
    cases = [Case(name=f"A @{n}", measure=_measure, beside="limit") for n in (1, 16, 64)]
    cases += [Case(name="limit", measure=_measure), Case(name="B @1", measure=_measure, beside="limit")]
    svg = picture(cases, [{case.name: _figures(10, 20) for case in cases}])
    assert svg.startswith("<svg")
    assert svg.count('<rect class="s0"') == 3


def test_load_without_a_server_exits_1_and_says_what_to_start() -> None:
    """`python -m loadtest` against nobody names the address and the command, and fails."""
    environment = os.environ | {"AISLE_GRPC_ADDRESS": "127.0.0.1:9", "AISLE_HTTP_ADDRESS": "127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "--seconds", "2", "--users", "2"],
        cwd=_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no answer at 127.0.0.1:9" in done.stderr
    assert "make up" in done.stderr


def test_the_served_encoder_gives_a_text_one_vector_in_any_batch(encoder: BuiltEncoder) -> None:
    """Alone, and among texts of other lengths in batches of several sizes."""
    assert least_cosine(encoder.onnx, encoder.tokenizer, [*texts(5, 1), *(4 * text for text in texts(5, 6))]) >= 0.9999


def test_a_slope_is_the_power_with_which_a_cost_grows() -> None:
    """A cost in proportion has slope 1, one that stays has 0; the table has a column for each size, and the slope last."""
    rows = [Row(size, {"grows, us": 3.0 * size, "stays, us": 7.0}) for size in (10, 100, 1000)]
    assert slope(rows, "grows, us") == pytest.approx(1)
    assert slope(rows, "stays, us") == pytest.approx(0)
    assert growth_markdown("events", rows).splitlines() == [
        "| events | 10 | 100 | 1,000 | slope |",
        "|---|---:|---:|---:|---:|",
        "| grows, us | 30.00 | 300 | 3,000 | 1.00 |",
        "| stays, us | 7.00 | 7.00 | 7.00 | 0.00 |",
    ]


def test_what_a_tenant_takes_is_the_difference_between_the_sizes() -> None:
    """Memory and processor time of each further tenant, and nothing where there is one size only."""
    rows = [
        Row(size, {"start and each tenant asked once, CPU s": 2 + size / 100, "memory after that, MB": 200.0 + size}) for size in (1, 101)
    ]
    assert a_tenant(rows) == "A tenant of 100 items more takes 1.0 MB and 10 ms of processor time."
    assert a_tenant(rows[:1]) == ""


def test_other_options_of_sessions_are_measured_beside_the_servers(encoder: BuiltEncoder) -> None:
    """Choices of all kinds run texts and candidates in processes of their own, and say what each call took and what they hold."""
    choices = [one for one in CHOICES if one.name in {SERVERS.name, "arena grows as asked", "the same, on all cores"}]
    wanted = [Shape(16, 2), Shape(0, 10)]
    models = Models(encoder.onnx, (101, *range(2000, 2400), 102), random_ranker())
    rounds, memory = measured(choices, models, wanted, rounds=2, slot_s=0.002)
    assert len(choices) == len(memory) == 3
    assert all(found.keys() == {(choice.name, shape) for choice in choices for shape in wanted} for found in rounds)
    assert all(spent.cpu_s > 0 < spent.wall_s for found in rounds for spent in found.values())
    assert all(0 < one.held_mb < one.peak_mb for one in memory.values())
