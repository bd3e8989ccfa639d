"""`python -m loadtest`: the load of `locustfile.py` without a browser. Exit 1 when a call failed.

Needs a running server (`make up`), found by AISLE_GRPC_ADDRESS, AISLE_HTTP_ADDRESS and AISLE_KEY, or on the default ports.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Becomes locust: its greenlets must patch the standard library before anything else is imported."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: %(default)s)")
    parser.add_argument("--users", type=int, default=16, help="concurrent users, half by gRPC and half by REST (default: %(default)s)")
    parser.add_argument("--only", choices=("grpc", "rest"), help="one door alone")
    parser.add_argument(
        "--acknowledged", type=Path, help="file for the ids of acknowledged events, one a line, to compare with the database"
    )
    arguments = parser.parse_args()
    if arguments.seconds < 1 or arguments.users < 1:
        parser.error("--seconds and --users must be at least 1")
    if arguments.acknowledged:
        os.environ["AISLE_LOAD_ACKNOWLEDGED"] = str(arguments.acknowledged.resolve())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "locust", "-f", str(_ROOT / "loadtest" / "locustfile.py"), "--headless", "--only-summary"]
    command += ["--loglevel", "WARNING", "--run-time", f"{arguments.seconds}s", "--users", str(arguments.users)]
    command += ["--spawn-rate", str(arguments.users), "--stop-timeout", "10"]
    if arguments.only:
        command.append({"grpc": "GrpcUser", "rest": "RestUser"}[arguments.only])
    os.execv(sys.executable, command)  # noqa: S606  # nothing of it is input but numbers


if __name__ == "__main__":
    main()
