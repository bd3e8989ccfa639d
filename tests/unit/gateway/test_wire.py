"""Pure rules of the wire: what a caller accepts, lines of a body, frames of a stream, bounded inflating."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidFieldError
from server.gateway.accept import choose, takes_coding
from server.gateway.compression import inflate
from server.gateway.frames import OFFERED, JsonArray, ServerSentEvents, frames_for
from server.gateway.http import Disconnected, read_lines
from server.gateway.replies import HttpError


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ("", "application/x-ndjson"),
        ("*/*", "application/x-ndjson"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/x-ndjson"),
        ("application/json", "application/json"),
        ("application/*", "application/x-ndjson"),
        ("text/*", "text/event-stream"),
        ("Text/Event-Stream", "text/event-stream"),
        ("application/json;q=0.5, text/event-stream;q=0.6", "text/event-stream"),
        ("*/*;q=0.1, application/json", "application/json"),
        ("application/x-ndjson;q=0, */*", "text/event-stream"),
        ("application/json; charset=utf-8; q=1.0", "application/json"),
        ("image/png", None),
        ("*/*;q=0", None),
        ("application/json;q=high", None),
    ],
)
def test_the_best_liked_framing_is_chosen(header: str, chosen: str | None) -> None:
    """The highest quality wins, the more specific entry speaks for a type, and of equals the first offered."""
    assert choose(header, OFFERED) == chosen


@given(st.text(max_size=60))
def test_any_accept_header_ends_in_a_choice_or_none(header: str) -> None:
    """No header breaks the choice."""
    assert choose(header, OFFERED) in {*OFFERED, None}
    assert takes_coding(header, "gzip") in {True, False}


_MESSAGES = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=8), max_size=3), max_size=5)


@given(_MESSAGES, st.booleans())
def test_every_framing_reads_back(messages: list[dict[str, str]], failed: bool) -> None:  # noqa: FBT001  # drawn
    """What a framing writes, its reader reads: the messages in order, and the error last."""
    error = {"code": 3}
    for accept in OFFERED:
        frames = frames_for(accept, "")
        assert frames is not None
        parts = [frames.start(), *(frames.message(json.dumps(one).encode()) + frames.idle for one in messages)]
        text = b"".join([*parts, frames.error(json.dumps(error).encode()) if failed else frames.end()]).decode()
        assert _read(frames.content_type, text) == (messages, error if failed else None)


def _read(kind: str, text: str) -> tuple[list[Any], Any]:
    if kind == "application/json":
        values = json.loads(text)
        failed = bool(values) and values[-1] == {"error": {"code": 3}}
        return (values[:-1], values[-1]["error"]) if failed else (values, None)
    if kind == "application/x-ndjson":
        values = [json.loads(line) for line in text.split("\n") if line]
        return [one["result"] for one in values if "result" in one], next((one["error"] for one in values if "error" in one), None)
    events = [dict(line.partition(": ")[::2] for line in one.split("\n")) for one in text.split("\n\n") if one]
    data = [json.loads(one["data"]) for one in events if "id" in one]
    return data, next((json.loads(one["data"]) for one in events if one.get("event") == "error"), None)


@pytest.mark.parametrize(("seen", "next_id"), [("", 1), ("7", 8), ("abc", 1), ("-3", 1), ("٣", 1), ("9" * 40, 1)])
def test_ids_go_on_from_the_last_seen(seen: str, next_id: int) -> None:
    """An id that is none of ours starts the count anew."""
    assert ServerSentEvents(seen).message(b"{}").startswith(b"id: %d\n" % next_id)


def test_an_empty_array_is_an_array() -> None:
    """A stream without messages is `[]`."""
    frames = JsonArray()
    assert json.loads(frames.start() + frames.idle + frames.end()) == []


def _receive(parts: list[bytes], *, leaves: bool = False) -> Any:
    events = [{"type": "http.request", "body": part, "more_body": leaves or index < len(parts) - 1} for index, part in enumerate(parts)]
    events += [{"type": "http.disconnect"}] if leaves else []

    async def receive() -> Any:
        return events.pop(0)

    return receive


@given(st.lists(st.sampled_from([b'{"a":1}', b"", b"  ", b"x" * 20]), max_size=6), st.lists(st.integers(0, 80), max_size=6))
async def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], cuts: list[int]) -> None:
    """Where the network cuts a body changes none of its lines; blank ones are left out."""
    body = b"\n".join(lines)
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    parts = [body[start:end] for start, end in itertools.pairwise(places)]
    assert [line async for line in read_lines(_receive(parts), limit=20)] == [line for line in lines if line.strip()]


async def test_a_long_line_and_a_leaving_client_end_the_lines() -> None:
    """A line past the limit is 413 before its end has come; a client that leaves is no end of its stream."""
    with pytest.raises(HttpError, match="larger than 20 bytes"):
        [line async for line in read_lines(_receive([b"x" * 15, b"x" * 15, b"\n"]), limit=20)]
    with pytest.raises(Disconnected):
        [line async for line in read_lines(_receive([b"a\nb"], leaves=True), limit=20)]


@given(st.binary(max_size=300), st.sampled_from([("gzip", gzip.compress), ("deflate", zlib.compress)]))
def test_inflating_gives_the_body_or_says_that_it_is_larger(body: bytes, coding: tuple[str, Any]) -> None:
    """A body within the limit comes back whole; one past it gives None, whatever it would be."""
    name, compress = coding
    assert inflate(compress(body), name, limit=len(body)) == body
    if body:
        assert inflate(compress(body), name, limit=len(body) - 1) is None


@given(st.binary(max_size=100))
def test_any_bytes_inflate_or_are_refused(body: bytes) -> None:
    """Bytes that are no such stream are a bad request."""
    for name in ("gzip", "deflate"):
        try:
            plain = inflate(body, name, limit=10)
        except InvalidFieldError as error:
            assert error.field == "body"  # noqa: PT017  # most bytes are refused
        else:
            assert plain is None or len(plain) <= 10
