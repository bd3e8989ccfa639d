"""Checks the protos: style, format, compatibility with the last release, and that the generated code is fresh.

`proto/released.binpb` is the last release's image; a release rewrites it (`python proto/check.py --release`).
"""

from __future__ import annotations

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

from generate import PROTO, generate

BUF = str(Path(sys.executable).with_name("buf"))
RELEASED = PROTO / "released.binpb"


def _buf(*arguments: str) -> None:
    if subprocess.run([BUF, *arguments], cwd=PROTO, check=False).returncode:
        sys.exit(f"buf {arguments[0]} failed")


def _stale(fresh: Path, committed: Path) -> list[str]:
    """Returns the files that differ, or stand on one side only. gRPC stubs name the tool's version, which is pinned."""
    paths = {path.relative_to(root) for root in (fresh, committed) for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    return sorted(str(path) for path in paths if not _same(fresh / path, committed / path))


def _same(left: Path, right: Path) -> bool:
    return left.exists() and right.exists() and filecmp.cmp(left, right, shallow=False)


def main() -> None:
    """Runs every check, or makes this state the released one."""
    if "--release" in sys.argv:
        _buf("build", "-o", str(RELEASED))
        return
    _buf("lint")
    _buf("format", "--diff", "--exit-code", "--path", "aisle")
    with tempfile.TemporaryDirectory() as folder:
        image = str(Path(folder) / "image.binpb")
        _buf("build", "-o", image)  # buf compares two images of a workspace with two modules only when each is one file
        _buf("breaking", image, "--against", str(RELEASED), "--config", str(PROTO / "buf.yaml"))
        fresh = Path(folder) / "gen"
        generate(fresh)
        stale = _stale(fresh, PROTO / "gen")
    if stale:
        sys.exit(f"generated code is stale, run `poe generate`: {', '.join(stale)}")


if __name__ == "__main__":
    main()
