"""`python -m tests.fuzz [TARGET ...] --seconds N`: fuzzes each target for N seconds, guided by coverage. Exit 1 on a finding.

Inputs that were found interesting are kept in `--corpus`, so that the next run begins where this one ended; one that broke a target is
written beside them as `crash-…`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAMES = ("path", "json", "filter", "signature", "token")


def _fuzz(name: str, corpus: Path, seconds: int) -> None:
    """Becomes the fuzzer of one target; does not return."""
    import atheris

    with atheris.instrument_imports(include=["server.compat.aws.sigv4", "server.gateway", "server.identity", "server.retrieval.filters"]):
        from tests.fuzz.targets import TARGETS

    function, seeds = TARGETS[name]
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", f"-artifact_prefix={corpus}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(corpus), *options], function)
    atheris.Fuzz()


def _fine(name: str, corpus: Path, seconds: int) -> bool:
    """Fuzzes one target in a process, prints what came of it, and returns whether nothing was found."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--here", f"--seconds={seconds}", f"--corpus={corpus}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    runs = next((line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line), "0")
    print(f"{name}: {runs} inputs in {seconds} s, {'nothing found' if not done.returncode else 'FAILED'}", flush=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
    return not done.returncode


def main() -> None:
    """Runs each target in a process of its own, `--jobs` at a time."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--seconds", type=int, default=30, help="for each target (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default: %(default)s)")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="folder of inputs (default: %(default)s)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.targets) - set(NAMES))
    if unknown or arguments.seconds < 1 or arguments.jobs < 1:
        parser.error(f"{unknown[0]} is no target; choose from {', '.join(NAMES)}" if unknown else "--seconds and --jobs must be at least 1")
    if arguments.here:
        corpus = arguments.corpus / arguments.targets[0]
        corpus.mkdir(parents=True, exist_ok=True)
        _fuzz(arguments.targets[0], corpus, arguments.seconds)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        fine = list(pool.map(lambda name: _fine(name, arguments.corpus, arguments.seconds), arguments.targets or NAMES))
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
