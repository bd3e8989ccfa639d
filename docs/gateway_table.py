"""Writes the conformance table of docs/gateway.md from the tests that pass.

    PYTHONPATH=.:proto/gen python docs/gateway_table.py

runs the tests that carry `@pytest.mark.feature(...)` and writes a row for each feature whose tests all passed. A test of the suite
compares the page with the marks, so that a feature without a test, or a test without its row, is found without running them twice.
What the other gateways do is from their documentation and issue trackers; a dash is what was not looked up.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gateway.md"
FOLDERS = (ROOT / "tests" / "unit" / "gateway", ROOT / "tests" / "integration" / "gateway")
BEGIN, END = "<!-- conformance: begin -->", "<!-- conformance: end -->"

FEATURES: dict[str, tuple[str, str, str]] = {
    "templates": ("Path templates: `*`, `**`, nested variables, custom verbs", "yes", "yes"),
    "precedence": ("Literal over `*` over `**`, whatever the order of the rules", "the rule registered last", "yes"),
    "escapes": (
        "`%2F` kept in variables of several segments, else decoded",
        "by `WithUnescapingMode`",
        "by `url_unescape_spec`",
    ),
    "hostile-paths": ("64,000 slashes answer at once", "-", "-"),
    "bindings": ("`additional_bindings`, `custom` kinds, rules that do not fit refused at the start", "yes", "yes"),
    "body": ('`body: "*"` and `body: "field"`', "yes", "yes"),
    "response-body": ("`response_body`, in streams too", "yes", "yes"),
    "query": ("Query to nested, repeated, map, enum, wrapper, time, mask and JSON fields", "yes", "nested and repeated"),
    "unknown-query": ("Unknown query parameters", "ignored", "404 unless ignored (envoy#9395)"),
    "system-parameters": ("System parameters, such as `$.xgafv`, ignored", "as unknown ones", "by `ignored_query_parameters`"),
    "patch-mask": ("PATCH fills an absent field mask from the body", "yes", "no"),
    "http-body": ("`google.api.HttpBody` both ways, in streams too", "yes", "yes"),
    "json": ("ProtoJSON equal to `json_format` on generated messages and documents", "-", "-"),
    "well-known": ("Well-known types, int64 as strings, unknown enum numbers, `Any`, proto2 groups and extensions", "yes", "yes"),
    "errors": ("`google.rpc.Status` with details, statuses as grpc-gateway", "yes", "by `convert_grpc_status`"),
    "field-errors": ("Errors name the path of the field as it was written, and the mend", "no", "no"),
    "ndjson": ("Server streams as lines `result` and `error`", "yes", "lines of messages"),
    "sse": ("Server streams as server-sent events with ids, retry, heartbeat", "no (#26, #4537)", "yes"),
    "json-array": ("Server streams as a JSON array, chosen by `Accept`", "no", "yes, by configuration"),
    "client-streams": ("Client streams as lines of the body", "yes", "array in the body"),
    "websocket": ("Client and two-way streams by WebSocket", "by a third party", "no"),
    "flush": ("Each message is flushed; proxies are told not to buffer", "yes", "by configuration"),
    "stream-errors": ("Errors as the last frame; as the status while nothing is written", "yes", "cut (envoy#5011)"),
    "back-pressure": ("A slow reader holds the handler back, both ways", "yes", "yes"),
    "cancel": ("A client that leaves cancels the handler", "yes", "yes"),
    "deadline": ("`grpc-timeout`, for calls and whole streams", "yes", "by route"),
    "headers": ("Request headers by allow-list, reply metadata and trailers behind prefixes", "yes", "all pass"),
    "tracing": ("`x-request-id`, `traceparent`", "by middleware", "yes"),
    "compression": ("gzip replies; gzip and deflate bodies with a bound on what they inflate to", "by middleware", "by filter"),
    "limits": ("Limits on bodies, lines, frames and replies", "of the Go server", "yes"),
    "cors": ("CORS; pages of other origins kept from the visitor's own machine", "by middleware", "by filter"),
    "caching": ("`ETag` and `If-None-Match`, `Cache-Control` and `Vary` by method", "by middleware", "by filter"),
    "reflection": ("Descriptors by server reflection", "no: generated code", "no"),
    "tls": ("TLS to the upstream", "yes", "yes"),
    "openapi": ("OpenAPI 3.1 with examples, valid", "2.0; 3.1 in alpha", "no"),
    "openapi-live": ("Generated calls against the live server agree with the document", "-", "no"),
    "typescript": ("A TypeScript client is generated and checked", "-", "no"),
    "in-process": ("In process with the servicers, without a second hop", "`RegisterHandlerServer`, without streams", "no"),
}
"""Feature -> what it is, and how grpc-gateway v2 and Envoy's grpc_json_transcoder have it."""


def marked_tests() -> dict[str, set[str]]:
    """Returns the tests of each feature as `folder/file.py::test`, read from their source."""
    tests: dict[str, set[str]] = defaultdict(set)
    for folder in FOLDERS:
        for file in sorted(folder.glob("test_*.py")):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    for feature in _features(node):
                        tests[feature].add(f"{file.relative_to(ROOT)}::{node.name}")
    return dict(tests)


def _features(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for one in node.decorator_list:
        if isinstance(one, ast.Call) and ast.unparse(one.func) == "pytest.mark.feature":
            yield from (ast.literal_eval(argument) for argument in one.args)


def table(tests: Mapping[str, set[str]]) -> str:
    """Returns the table. Features without tests have no row."""
    rows = ["| feature | Aisle, and the tests | grpc-gateway v2 | Envoy |", "|---|---|---|---|"]
    for name, (text, grpc_gateway, envoy) in FEATURES.items():
        if name in tests:
            rows.append(f"| {text} | {_links(tests[name])} | {grpc_gateway} | {envoy} |")
    return "\n".join(rows)


def _links(tests: set[str]) -> str:
    files: dict[str, int] = defaultdict(int)
    for test in tests:
        files[test.partition("::")[0]] += 1
    return ", ".join(f"[{Path(file).stem.removeprefix('test_')}](../{file}) {count}" for file, count in sorted(files.items()))


class _Recorder:
    """A pytest plugin that keeps which marked tests passed, in all their cases."""

    def __init__(self) -> None:
        self.features: dict[str, list[str]] = {}
        self.failed: set[str] = set()
        self.passed: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keeps the features of each test."""
        for item in items:
            self.features[item.nodeid] = [name for mark in item.iter_markers("feature") for name in mark.args]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keeps the outcome of each case. A skipped one has not passed."""
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        elif not report.passed:
            self.failed.add(report.nodeid)

    def tests(self) -> dict[str, set[str]]:
        """Returns the tests of the features whose cases all passed."""
        broken = {name for node in self.failed for name in self.features[node]}
        tests: dict[str, set[str]] = defaultdict(set)
        for node in self.passed:
            for name in self.features[node]:
                if name not in broken:
                    tests[name].add(re.sub(r"\[.*", "", node, flags=re.DOTALL))
        return dict(tests)


def main() -> int:
    """Runs the tests and writes the table. Returns 1 if a feature is missing from it."""
    import pytest

    recorder = _Recorder()
    pytest.main(["-q", "-m", "feature", *map(str, FOLDERS)], plugins=[recorder])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(recorder.tests())}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    missing = FEATURES.keys() - recorder.tests().keys()
    sys.stderr.write(f"not shown to work: {', '.join(sorted(missing)) or 'none'}\n")
    return int(bool(missing))


if __name__ == "__main__":
    raise SystemExit(main())
