"""docs/compat.md says what the adapters do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.compat.aws import events, runtime
from server.compat.kserve.servicer import offered_service
from server.compat.openai.api import MAX_INPUTS
from server.compat.segment.api import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES
from server.compat.segment.messages import COMMERCE
from server.domain.profiles import HISTORY_LIMIT
from server.inference import RANKER, SEQUENCE_ENCODER, TEXT_DIMENSION, TEXT_ENCODER, ModelSpec
from server.inference.rank import MAX_ROWS
from server.service import models

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "compat.md").read_text()


def test_every_method_of_the_inference_protocol_that_is_offered_is_named() -> None:
    """The methods on the page are those that the gRPC door has."""
    offered = re.search(r"^Offered: (.*);", PAGE, re.MULTILINE)
    assert offered is not None
    assert set(re.findall(r"`(\w+)`", offered[1])) == {method.name for method in offered_service().methods}


def test_every_limit_is_the_real_one() -> None:
    """The numbers on the page are those of the code."""
    for text in (
        f"1 to {runtime.MAX_RESULTS}, {runtime.DEFAULT_RESULTS} if unset; at most {runtime.MAX_WITH_METADATA} with",
        f"1 to {events.MAX_EVENTS}. `eventType`",
        f"1 to {events.MAX_ITEMS}, replaced whole",
        f"1 to {events.MAX_USERS}; properties",
        f"up to {MAX_INPUTS} texts",
        f"at most {MAX_REQUEST_BYTES // 1024} KiB unpacked, {MAX_MESSAGE_BYTES // 1024} KiB a message",
        f"{models.MAX_TOKENS:,} a call",
        f"at most {MAX_ROWS:,} rows",
        f"at most {models.MAX_SEQUENCES} rows of {HISTORY_LIMIT} events",
        f"| `dimensions` | 1 to {TEXT_DIMENSION}:",
        f"within ±{models.MAX_ABSOLUTE:,.0f}",
    ):
        assert text in PAGE, text


@pytest.mark.parametrize("spec", [TEXT_ENCODER, RANKER, SEQUENCE_ENCODER], ids=lambda spec: spec.name)
def test_every_tensor_is_the_contracts(spec: ModelSpec) -> None:
    """The table has each model's tensors in the contract's order, with their types and sizes; a size that varies has a word, rows first."""
    row = re.search(rf"^\| `{spec.name}`[^|]*\|[^|]*\|([^|]*)\|([^|]*)\|$", PAGE, re.MULTILINE)
    assert row is not None
    for cell, tensors in zip(row.groups(), (spec.inputs, spec.outputs), strict=True):
        assert _written(cell) == [(one.name, one.datatype, list(one.shape)) for one in tensors]


def test_the_models_have_rows_and_nothing_else_has() -> None:
    """The table of models lists those of the contract."""
    table = PAGE.partition("| model | version | takes | gives |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [spec.name for spec in (TEXT_ENCODER, RANKER, SEQUENCE_ENCODER)]


def _written(cell: str) -> list[tuple[str, str, list[int]]]:
    """Returns the tensors of a cell such as `a`, `b` INT64 (rows, 3): name, type and sizes, -1 for a word."""
    found = []
    for names, datatype, sizes in re.findall(r"((?:`\w+`(?:, )?)+) (INT64|FP32) \(([^)]*)\)", cell):
        shape = sizes.split(", ")
        assert shape[0] == "rows", cell
        found += [(name, datatype, [int(size) if size.isdecimal() else -1 for size in shape]) for name in re.findall(r"`(\w+)`", names)]
    return found


def test_every_event_of_the_commerce_spec_that_has_a_weight_is_named() -> None:
    """The page lists the event types that Segment's names become, in the order of their names there."""
    assert ", ".join(f"`{kind}`" for kind in COMMERCE.values()) in PAGE
