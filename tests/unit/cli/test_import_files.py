import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from server.cli.import_files import Row, open_source
from server.errors import InvalidFieldError

COLUMNS = ("id", "title")


def rows_of(path: Path) -> list[Row]:
    """Returns all rows of a file."""
    return list(open_source(path, COLUMNS, ("id",)).rows)


def write(folder: Path, name: str, content: bytes) -> Path:
    """Returns the path of a file with this content."""
    path = folder / name
    path.write_bytes(content)
    return path


def test_csv_rows_carry_the_line_they_start_on(tmp_path: Path) -> None:
    """Quoted line breaks, blank lines, CRLF and a byte-order mark are part of the format."""
    path = write(tmp_path, "a.csv", b'\xef\xbb\xbfid,title\r\n1,"two\r\nlines"\r\n\r\n2,x\r\n')
    assert rows_of(path) == [Row(2, {"id": "1", "title": "two\r\nlines"}, ""), Row(5, {"id": "2", "title": "x"}, "")]


def test_bad_csv_rows_do_not_stop_the_rest(tmp_path: Path) -> None:
    """A row with too few or too many fields is reported on its line, and the rows after it are read."""
    rows = rows_of(write(tmp_path, "a.csv", b'id,title\n1\n2,b,c\n3,"x"y\n4,d\n'))
    assert [(row.line, row.fields is not None) for row in rows] == [(2, False), (3, False), (4, False), (5, True)]
    assert "1 fields, the header 2" in rows[0].problem


@pytest.mark.parametrize("tail", [b"", b'9,"z"\n', b'9,"z\nz"\n'])
def test_a_quote_left_open_costs_its_own_row_only(tmp_path: Path, tail: bytes) -> None:
    """Rows after an unclosed quote are read, whether or not a later quote closes it."""
    good = b"".join(b"%d,title %d\n" % (number, number) for number in range(3, 50))
    rows = rows_of(write(tmp_path, "a.csv", b'id,title\n1,a\n2,"open\n' + good + tail))
    assert [row.line for row in rows if row.fields is None] == [3]
    assert [row.fields["id"] for row in rows if row.fields] == ["1", *map(str, range(3, 50)), *(["9"] if tail else [])]
    assert [row.line for row in rows] == list(range(2, 2 + len(rows)))


def test_bytes_that_are_not_utf_8_reach_the_checks_of_their_row(tmp_path: Path) -> None:
    """A file in another encoding is read; its wrong bytes are lone surrogates for the fields' checks to refuse."""
    rows = rows_of(write(tmp_path, "a.csv", b"id,title\n1,caf\xe9\n2,ok\n"))
    assert [row.fields for row in rows] == [{"id": "1", "title": "caf\udce9"}, {"id": "2", "title": "ok"}]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_an_endless_line_is_one_bad_row(tmp_path: Path, name: str) -> None:
    """A line of several MiB is skipped without being held in memory whole."""
    good = b"2,ok\n" if name == "a.csv" else b'{"id": "2"}\n'
    header = b"id,title\n" if name == "a.csv" else b""
    rows = rows_of(write(tmp_path, name, header + b'1,"' + b"x" * 5_000_000 + b"\n" + good))
    assert [row.fields is not None for row in rows] == [False, True]
    assert "longer than" in rows[0].problem


def test_jsonl_lines_are_objects(tmp_path: Path) -> None:
    """What is not a JSON object is reported on its line; blank lines count but are no rows."""
    lines = [b'{"id": "1"}', b"", b"[1]", b"{", b"nonsense", b'{"id": NaN}', b'"\xff"', b'{"id": "2"}']
    rows = rows_of(write(tmp_path, "a.jsonl", b"\n".join(lines)))
    assert [(row.line, row.fields) for row in rows if row.fields] == [(1, {"id": "1"}), (8, {"id": "2"})]
    assert [row.line for row in rows if row.fields is None] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "has no column id; its columns are none"),
        ("a.csv", b"title,x\n1,2\n", "has no column id; its columns are title, x"),
        ("a.csv", b"id,id\n1,2\n", "column 'id' twice"),
        ("a.csv", b'"open', "not a CSV header"),
        ("a.csv", b"\x89PNG\r\n\x1a\n\0\0", "has no column id"),
        ("a.txt", b"id\n1\n", "does not end in"),
        ("a", b"id\n1\n", "does not end in"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_says_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """The error names the file and what is wrong with it."""
    with pytest.raises(InvalidFieldError, match=message):
        open_source(write(tmp_path, name, content), COLUMNS, ("id",))


def test_the_position_reaches_the_size(tmp_path: Path) -> None:
    """Progress ends at its total."""
    for name, content in (("a.csv", b"id,title\n1,a\n"), ("a.jsonl", b'{"id": 1}\n')):
        source = open_source(write(tmp_path, name, content), COLUMNS, ("id",))
        list(source.rows)
        assert source.position() == source.size


def test_parquet_rows_keep_their_types(tmp_path: Path) -> None:
    """Columns that are not read are not loaded; numbers, lists and structs stay what they are."""
    table = pa.table({"id": [1, 2], "title": [["a"], None], "other": [1.0, 2.0]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == [Row(1, {"id": 1, "title": ["a"]}, ""), Row(2, {"id": 2, "title": None}, "")]


def test_a_broken_parquet_file_says_so(tmp_path: Path) -> None:
    """A file cut short, or of another format, is refused before anything is imported; so is one without the needed column."""
    parquet.write_table(pa.table({"title": ["a"] * 1000}), tmp_path / "a.parquet")
    with pytest.raises(InvalidFieldError, match="has no column id"):
        rows_of(tmp_path / "a.parquet")
    for content in (b"", b"PAR1", (tmp_path / "a.parquet").read_bytes()[:-20]):
        with pytest.raises(InvalidFieldError, match="not a whole Parquet file"):
            rows_of(write(tmp_path, "b.parquet", content))


_cells = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(_cells.filter(bool), _cells), max_size=10))
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]) -> None:
    """Any text in cells, quotes and line breaks included, comes back as it was."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerows([COLUMNS, *cells])
    rows = rows_of(write(tmp_path_factory.mktemp("csv"), "a.csv", stream.getvalue().encode()))
    assert [row.fields for row in rows] == [dict(zip(COLUMNS, cell, strict=True)) for cell in cells]


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_any_bytes_give_rows_or_complaints(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """No file content raises anything but our error."""
    folder = tmp_path_factory.mktemp("bytes")
    for path in (
        write(folder, "a.csv", b"id,title\n" + content),
        write(folder, "a.jsonl", content + b"\n" + json.dumps({"id": 1}).encode()),
    ):
        rows = rows_of(path)
        assert all((row.fields is None) == bool(row.problem) for row in rows)
