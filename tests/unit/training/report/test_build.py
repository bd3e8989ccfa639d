from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from server.errors import InvalidFieldError
from tests.unit.training.synthetic import events_of, two_camps
from training.data import raw_events
from training.evaluate import Evaluation, Study, evaluate
from training.metrics import parse_metrics
from training.report.build import CurvePoint, Findings, ModelReport, build_report, write_report
from training.report.docs import documents, read_reports
from training.report.sections import sections

_JUDGED = ("quality", "history", "popularity", "exposure", "ablation")


def _quiet(_step: str, _share: float) -> None:
    pass


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Two camps of users, who start at the same second."""
    camps = two_camps()
    train = events_of({user: items[:-1] for user, items in camps.items()})
    return evaluate(train, events_of({user: items[-1:] for user, items in camps.items()}, start_s=2e6), metrics=parse_metrics("ndcg@10"))


@pytest.fixture(scope="module")
def report(evaluation: Evaluation) -> ModelReport:
    """The report of it, with all that others find out."""
    findings = Findings(
        forecasts=(np.array([0.1, 0.9]), np.array([False, True])),
        int8={"ndcg@10": (0.5, 0.49)},
        curve=[CurvePoint(1, 3.0, None, 2.0), CurvePoint(2, 2.5, 0.1, 2.0)],
    )
    vectors = np.eye(evaluation.items, 16, dtype=np.float32)
    return build_report(evaluation.study, evaluation.study.fitted, vectors=vectors, findings=findings, progress=_quiet)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"href", "src", "xlink:href"}:
                self.links.append(str(value))
            if name == "id":
                self.ids.append(str(value))


def test_all_sections_come_from_the_one_ranking(evaluation: Evaluation, report: ModelReport) -> None:
    """The results are those of the evaluation, each slice holds every user, and what is there is not called absent."""
    assert report.results["aisle"]["ndcg@10"] == evaluation.results["aisle"]["ndcg@10"]
    assert sum(bucket.users for bucket in report.slices["history"]) == report.users == 60
    assert sum(bucket.targets for bucket in report.slices["popularity"]) == 60
    assert set(report.results) == set(report.exposure) == {"aisle", "popularity", "item_knn", "ease"}
    assert set(report.absent) == {"age"}
    assert report.ablation is not None
    assert report.ablation.whole["ndcg@10"] == evaluation.results["aisle"]["ndcg@10"]
    assert report.lineage["events"] == evaluation.events


def test_the_page_is_whole_by_itself(report: ModelReport, tmp_path: Path) -> None:
    """It loads nothing, has no script, each id once, and every picture stands beside a table."""
    write_report(report, tmp_path / "new", title="A & <b>")
    text = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert "A &amp; &lt;b&gt;" in text
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    shown = [section for section in sections(report.to_json()) if section.figures]
    assert {section.key for section in shown} == {*_JUDGED, "calibration", "int8", "curve"}
    assert all(section.table is not None and section.table.rows for section in shown)
    assert page.tags.count("svg") == sum(len(section.figures) for section in shown)
    assert json.loads((tmp_path / "new" / "report.json").read_bytes()) == json.loads(json.dumps(report.to_json()))


def test_what_was_not_found_out_says_why(evaluation: Evaluation) -> None:
    """Sections without input are one sentence."""
    found = build_report(evaluation.study, evaluation.study.fitted, progress=_quiet).to_json()
    by_key = {section.key: section for section in sections(found)}
    for key in ("age", "calibration", "int8", "curve"):
        assert by_key[key].sentence.startswith("Not in this report: ")
        assert by_key[key].table is None
    assert "no item has a text" in by_key["exposure"].sentence


def test_a_model_that_could_not_be_judged_has_a_report(evaluation: Evaluation) -> None:
    """It says what it was fitted on and that nothing could be held out."""
    fitted = evaluation.study.fitted
    found = build_report(Study.unjudged(evaluation.study.model, fitted), fitted, progress=_quiet)
    by_key = {section.key: section for section in sections(found.to_json())}
    assert all(by_key[key].sentence.startswith("Not in this report: nothing could be held out") for key in _JUDGED)
    assert found.lineage["events"] == evaluation.events


def test_real_times_give_ages() -> None:
    """Where users start at different seconds, targets are told apart by age."""
    rows = [(f"u{n:02}", f"i{(n + step) % 9}", "x", 1000.0 * n + step) for n in range(30) for step in range(4)]
    asked = raw_events([(f"u{n:02}", f"i{(n + 5) % 9}", "x", 86400.0 * 40) for n in range(30)])
    found = evaluate(raw_events(rows), asked, metrics=parse_metrics("ndcg@10"))
    report = build_report(found.study, found.study.fitted, progress=_quiet)
    assert [bucket.label for bucket in report.slices["age"]] == ["30-89 days"]


def test_several_reports_become_one_document(report: ModelReport, tmp_path: Path) -> None:
    """Every picture that the page names is written, and the first table sets the data sets side by side."""
    for name in ("one", "two"):
        write_report(report, tmp_path / name, title=name)
    files = documents(read_reports(tmp_path))
    page = files.pop("reports.md")
    assert all(f"({name})" in page for name in files)
    assert page.count("](") == len(files) == 2 * 10
    assert "one (60 users, 12 items) | two (60 users, 12 items)" in page
    assert all(text.startswith("<svg") and "xmlns" in text for text in files.values())


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"format": 0}'])
def test_folders_without_reports_are_refused(tmp_path: Path, content: bytes | None) -> None:
    """The error names the folder or the file, and how to write one."""
    if content is not None:
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "report.json").write_bytes(content)
    with pytest.raises(InvalidFieldError, match="aisle evaluate --report"):
        read_reports(tmp_path)
