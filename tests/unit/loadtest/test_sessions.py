"""The comparison of ONNX Runtime's options: shapes, ratios and tables of figures that are given."""

from __future__ import annotations

import pytest

from loadtest.bench.sessions import CHOICES, SERVERS, Memory, Round, Shape, Spent, halves, paying, ratio, shapes, table, verdict
from server.inference.batcher import Limits

_TEXTS = [Shape(16, 1), Shape(128, 4)]
_WANTED = [*_TEXTS, Shape(0, 600)]


def _round(server_us: float, **others: float) -> Round:
    """Returns a round in which each call of the server's options took so long, and others' so many times that."""
    factors = {SERVERS.name: 1.0, **others}
    return {
        (name, shape): Spent(factor * server_us / 1e6, 2 * factor * server_us / 1e6)
        for name, factor in factors.items()
        for shape in _WANTED
    }


def test_shapes_are_those_that_the_batcher_makes() -> None:
    """Batches that would hold too many rows or tokens are as large as they may be, each once; the ranker's come last."""
    assert [str(one) for one in shapes(Limits(rows=8, tokens=256))] == [
        "1 x 16", "8 x 16", "1 x 64", "4 x 64", "1 x 128", "2 x 128", "ranker 100", "ranker 600",
    ]  # fmt: skip


def test_every_choice_has_a_name_of_its_own() -> None:
    """Figures are kept by name, and the server's options come first."""
    assert len({choice.name for choice in CHOICES}) == len(CHOICES)
    assert CHOICES[0] is SERVERS


def test_a_ratio_is_the_median_over_rounds_of_the_mean_over_shapes() -> None:
    """A round in which everything was slow changes no ratio; shapes weigh alike, whatever they cost."""
    rounds = [_round(100, other=0.9), _round(1000, other=0.9), _round(100, other=1.5)]
    assert ratio("other", _TEXTS, rounds, "cpu_s") == pytest.approx(0.9)
    uneven: Round = {
        (SERVERS.name, _TEXTS[0]): Spent(1, 1), (SERVERS.name, _TEXTS[1]): Spent(100, 1),
        ("other", _TEXTS[0]): Spent(2, 1), ("other", _TEXTS[1]): Spent(50, 1),
    }  # fmt: skip
    assert ratio("other", _TEXTS, [uneven], "cpu_s") == pytest.approx(1)


def test_a_choice_pays_only_if_it_does_in_both_halves() -> None:
    """What is cheap in the first half of the rounds alone is chance."""
    rounds = [_round(100, always=0.9, once=0.5), _round(100, always=0.9, once=1.1)]
    assert halves("once", _TEXTS, rounds, "cpu_s") == (pytest.approx(0.5), pytest.approx(1.1))
    assert paying(["always", "once"], _TEXTS, rounds) == ["always"]
    said = verdict([SERVERS.name, "always", "once"], _WANTED, rounds)
    assert said == "At most 0.97 of the server's processor time in both halves: texts: always; ranker: always."
    assert verdict([SERVERS.name, "once"], _TEXTS, rounds).endswith("texts: none.")


def test_the_table_has_the_servers_figures_and_the_others_over_them() -> None:
    """Microseconds in the first line, ratios below, and what the sessions held."""
    rounds = [_round(2000, other=0.5), _round(1000, other=0.75)]
    memory = {SERVERS.name: Memory(100.4, 150), "other": Memory(80, 90)}
    assert table("clock time", list(memory), _WANTED, rounds, "wall_s", memory).splitlines() == [
        "| clock time | MB held, most | 1 x 16 | 4 x 128 | ranker 600 | texts, by half | ranker, by half |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| the server's | 100, 150 | 3,000 us | 3,000 us | 3,000 us |  |  |",
        "| other | 80, 90 | 0.62 | 0.62 | 0.62 | 0.500, 0.750 | 0.500, 0.750 |",
    ]
    assert table("time", ["other"], _TEXTS, rounds, "cpu_s", {}).splitlines()[::2] == [
        "| time | 1 x 16 | 4 x 128 | texts, by half |",
        "| other | 0.62 | 0.62 | 0.500, 0.750 |",
    ]
