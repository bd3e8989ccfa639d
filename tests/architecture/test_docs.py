"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.domain.ranking import RANKED_FEATURES, RANKER_FEATURES
from server.settings import Settings

_ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(r"^\| `(AISLE_[A-Z_]+)` \| ([^|]+) \| [^|]+\|$", re.MULTILINE)


@pytest.fixture(scope="module")
def documented() -> dict[str, str]:
    """Variables in the settings table, with their defaults."""
    return {name: default.strip() for name, default in _ROW.findall((_ROOT / "docs" / "operations.md").read_text())}


def test_every_setting_is_documented_and_nothing_else(documented: dict[str, str]) -> None:
    """docs/operations.md lists each field of Settings by its variable, and no variable that nobody reads."""
    assert sorted(documented) == sorted(f"AISLE_{name.upper()}" for name in Settings.model_fields)


def test_documented_defaults_are_the_real_ones(documented: dict[str, str]) -> None:
    """Defaults that are plain values stand in the table as they are; empty ones say so."""
    for name, field in Settings.model_fields.items():
        said = documented[f"AISLE_{name.upper()}"]
        if field.default_factory is not None:
            assert not said.startswith("`"), name
        elif field.default == "":
            assert said.startswith("empty: "), name
        else:
            plain = str(field.default).replace(str(Path.home()), "~")
            assert said == f"`{plain.lower() if isinstance(field.default, bool) else plain}`", name


def test_the_features_of_the_ranker_are_counted() -> None:
    """docs/models.md says how many features a candidate has, and by how many sources it is ranked among the others."""
    page = (_ROOT / "docs" / "models.md").read_text()
    assert f"Each candidate has {len(RANKER_FEATURES)} features" in page
    assert f"by {('no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight')[len(RANKED_FEATURES)]} sources" in page


def test_every_decision_record_is_in_the_index() -> None:
    """docs/adr/README.md links each record by its own title, and nothing else."""
    folder = _ROOT / "docs" / "adr"
    records = {path.name: path.read_text().splitlines()[0].partition(". ")[2] for path in folder.glob("[0-9]*.md")}
    linked = {name: title for title, name in re.findall(r"\[([^\]]+)\]\((\d{4}-[^)]+)\)", (folder / "README.md").read_text())}
    assert linked == records


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link of a Markdown page names a file, and its anchor, if any, a heading there."""
    for page in [*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md"), *_ROOT.glob("loadtest/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(r"`[^`]*`", "", page.read_text())):
            name, _, anchor = target.partition("#")
            found = page.parent / name if name else page
            assert found.exists(), f"{page.name}: {target}"
            headings = {_anchor(line) for line in found.read_text().splitlines() if line.startswith("#")} if anchor else {""}
            assert anchor in headings, f"{page.name}: {target}"


def _anchor(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-")
