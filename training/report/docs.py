"""`python -m training.report.docs FOLDER`: several reports as one Markdown page and its pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from server.errors import InvalidFieldError
from server.retrieval.bundle import REPORT
from training.report.sections import Section, Table, interval, markdown, sections

PAGE = "reports.md"
_PRESENTED = ("quality", "history", "popularity", "age", "exposure", "ablation", "calibration", "int8", "curve")
_HEADLINE = ("hr@10", "ndcg@10")


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the reports in FOLDER/NAME/report.json by NAME, as `aisle evaluate --report FOLDER/NAME` leaves them, in order of names.

    Raises:
        InvalidFieldError: There is none, or one is not a report.
    """
    found = {}
    for path in sorted(folder.glob(f"*/{REPORT}")):
        try:
            report = json.loads(path.read_bytes())
        except ValueError as error:
            raise InvalidFieldError("report", f"{path} is not JSON: {error}; write it again with aisle evaluate --report") from error
        if not isinstance(report, dict) or report.get("format") != 1:
            raise InvalidFieldError("report", f"{path} was written by another version; write it again with aisle evaluate --report")
        found[path.parent.name] = report
    if not found:
        raise InvalidFieldError("folder", f"{folder} holds no NAME/{REPORT}; aisle evaluate --report {folder}/NAME writes one")
    return found


def documents(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns the page and its pictures, by file name."""
    files: dict[str, str] = {}
    parts = ["# Reports by data set", "Made by `python -m training.report.docs`; do not edit.", "## Quality", markdown(_quality(reports))]
    for name, report in reports.items():
        parts.append(f"## {name}")
        for section in sections(report):
            if section.key in _PRESENTED:
                parts.append(_presented(name, section))
                files |= {f"{name}-{figure.key}.svg": figure.standalone() for figure in section.figures}
    return {PAGE: "\n\n".join(parts) + "\n", **files}


def _quality(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns contenders by data set, as HR@10 / NDCG@10."""
    contenders = list(dict.fromkeys(name for report in reports.values() for name in report["results"]))
    columns = ("HR@10 / NDCG@10", *(f"{name} ({report['users']} users, {report['items']} items)" for name, report in reports.items()))
    rows = tuple((name, *(_headline(report["results"].get(name)) for report in reports.values())) for name in contenders)
    return Table(columns, rows)


def _headline(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else " / ".join(interval(row[metric]) for metric in _HEADLINE)


def _presented(name: str, section: Section) -> str:
    pictures = [f"![{figure.title}: {name}]({name}-{figure.key}.svg)" for figure in section.figures]
    table = [markdown(section.table)] if section.table is not None else []
    return "\n\n".join([f"### {section.title}", section.sentence, *pictures, *table])


@click.command
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="docs/models", show_default=True, help="Where to write.")
def main(folder: Path, out: Path) -> None:
    """Write the reports in FOLDER/NAME/report.json as Markdown and SVG."""
    out.mkdir(parents=True, exist_ok=True)
    files = documents(read_reports(folder))
    for name, content in files.items():
        (out / name).write_text(content, encoding="utf-8")
    click.echo(f"{out / PAGE} and {len(files) - 1} pictures")


if __name__ == "__main__":
    main()
