"""`python -m loadtest`: the load of `locustfile.py`, or a scenario, without a browser.

Exit 1 when a call failed or a threshold of the scenario is crossed.

Needs a running server (`make up`), found by AISLE_GRPC_ADDRESS, AISLE_HTTP_ADDRESS and AISLE_KEY, or on the default ports.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from loadtest.scenarios import SCENARIOS
from loadtest.tls import add_options, client_tls, hand_on

_ROOT = Path(__file__).resolve().parent.parent
_FOLDER = _ROOT / "loadtest"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="a load over time with thresholds (default: the plain load)")
    parser.add_argument("--seconds", type=int, help="how long (default: 60, or the scenario's)")
    parser.add_argument("--users", type=int, help="most users at once, half by gRPC and half by REST (default: 16, or the scenario's)")
    parser.add_argument("--only", choices=("grpc", "rest"), help="one door alone")
    parser.add_argument(
        "--acknowledged", type=Path, help="file for the ids of acknowledged events, one a line, to compare with the database"
    )
    parser.add_argument("--journeys", type=Path, help="scenario: JSONL of recorded journeys (default: generated ones)")
    parser.add_argument("--report", type=Path, help="scenario: folder for report.html and latency.svg (default: load-report/SCENARIO)")
    parser.add_argument("--p95-ms", type=float, help="scenario: largest p95 of all calls")
    parser.add_argument("--p99-ms", type=float, help="scenario: largest p99 of all calls")
    parser.add_argument("--error-share", type=float, help="scenario: largest share of failed calls, 0 to 1")
    add_options(parser)
    parser.add_argument("--metrics-port", type=int, help="loopback port for Prometheus while it runs (default: none)")
    return parser


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if (given.seconds or 1) < 1 or (given.users or 1) < 1 or given.seconds == 0 or given.users == 0:
        parser.error("--seconds and --users must be at least 1")
    only_scenario = ("journeys", "report", "p95_ms", "p99_ms", "error_share")
    if not given.scenario and (names := [f"--{name.replace('_', '-')}" for name in only_scenario if getattr(given, name) is not None]):
        parser.error(f"{', '.join(names)} needs --scenario")
    if given.journeys and not given.journeys.is_file():
        parser.error(f"--journeys: {given.journeys} is no file; `python -m loadtest.journeys` writes one")
    if given.error_share is not None and not 0 <= given.error_share <= 1:
        parser.error("--error-share must lie in 0 to 1")


def main() -> None:
    """Becomes locust: its greenlets must patch the standard library before anything else is imported."""
    parser = _parser()
    given = parser.parse_args()
    _check(parser, given)
    if given.acknowledged:
        os.environ["AISLE_LOAD_ACKNOWLEDGED"] = str(given.acknowledged.resolve())
    hand_on(given)
    client_tls()  # says what is wrong with the files before Locust starts
    if given.metrics_port:
        os.environ["AISLE_LOAD_METRICS_PORT"] = str(given.metrics_port)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--loglevel", "WARNING", "--stop-timeout", "10"]
    if given.scenario:
        report = (given.report or Path("load-report") / given.scenario).resolve()
        report.mkdir(parents=True, exist_ok=True)
        names = ("seconds", "users", "p95_ms", "p99_ms", "error_share")
        os.environ["AISLE_LOAD_ADJUSTED"] = json.dumps({name: getattr(given, name) for name in names})
        os.environ |= {"AISLE_LOAD_SCENARIO": given.scenario, "AISLE_LOAD_REPORT": str(report)}
        if given.journeys:
            os.environ["AISLE_LOAD_JOURNEYS"] = str(given.journeys.resolve())
        command += ["-f", str(_FOLDER / "scenario_file.py"), "--html", str(report / "report.html")]
    else:
        users = given.users or 16
        command += ["-f", str(_FOLDER / "locustfile.py"), "--run-time", f"{given.seconds or 60}s"]
        command += ["--users", str(users), "--spawn-rate", str(users)]
    if given.only:
        command.append({"grpc": "GrpcUser", "rest": "RestUser"}[given.only])
    os.execv(sys.executable, command)  # noqa: S606  # nothing of it is input but numbers and paths


if __name__ == "__main__":
    main()
