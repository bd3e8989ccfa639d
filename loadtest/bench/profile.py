"""`python -m loadtest.bench.profile`: where the server spends its processor time, as flame graphs in `docs/profiles` and a table.

Starts the same server as `python -m loadtest.bench`, keeps it busy with one kind of call after another, and samples it with py-spy, which
needs the right to trace its own child processes. Time of threads that wait is not shown. The table is of the whole process tree, by part.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

from loadtest.bench.case import Round
from loadtest.bench.cases import ALL
from loadtest.bench.measure import PARTS, BenchError, Figures
from loadtest.bench.stand import ROOT, Stand, standing
from server.cli.models import build_with_progress

PICTURES = ROOT / "docs" / "profiles"
_CASES = {
    "recommend-miss": "RecommendItems miss @16",
    "recommend-hit": "RecommendItems L1 @16",
    "embed": "EmbedTexts @16",
    "ingest": "IngestEvents of 1 @16",
}

_TITLE = re.compile(r'(<text id="title"[^>]*>)[^<]*')
"""Of py-spy's pictures: its command line, with paths of this machine."""


def _sampled(stand: Stand, name: str, seconds: float) -> Figures:
    """Runs a case, samples the server in the midst of it, and returns the case's figures."""
    measure = next(case.measure for case in ALL if case.name == _CASES[name])
    measure(stand, Round(hash(name) % 10**9 + 10**9, 3.0))  # reads the users' profiles once, which is the database's time
    found: list[Figures] = []
    busy = threading.Thread(target=lambda: found.append(measure(stand, Round(hash(name) % 10**9, seconds))))
    busy.start()
    command = [str(Path(sysconfig.get_path("scripts")) / "py-spy"), "record", "--nonblocking", "--pid", str(stand.server.process.pid)]
    command += ["--function", "--duration", str(max(1, int(seconds / 2))), "--rate", "100", "--output", str(PICTURES / f"{name}.svg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    busy.join()
    if done.returncode:
        raise BenchError(f"py-spy failed: {(done.stderr or done.stdout).strip()[-300:]}")
    if not found:
        raise BenchError(f"{_CASES[name]} failed; see above")
    picture = PICTURES / f"{name}.svg"
    picture.write_text(_TITLE.sub(rf"\g<1>{_CASES[name]}", picture.read_text(), count=1))
    return found[0]


def main() -> None:
    """Writes the pictures and prints the table in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load; half of it is sampled (default: %(default)s)")
    arguments = parser.parse_args()
    encoder = build_with_progress(None, Path(os.environ.get("AISLE_CACHE_DIR", "~/.cache/aisle")).expanduser())
    PICTURES.mkdir(exist_ok=True)
    print(f"| call | CPU us | {' | '.join(PARTS)} |")
    print(f"|---|---|{'---|' * len(PARTS)}")
    with standing((encoder.onnx, encoder.tokenizer)) as stand:
        for name, case in _CASES.items():
            figures = _sampled(stand, name, arguments.seconds)
            print(
                f"| [{case}](profiles/{name}.svg) | {figures.cpu_us:.0f} | {' | '.join(f'{figures.parts[part]:.0f}' for part in PARTS)} |"
            )


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
