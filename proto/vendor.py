"""Copies the .proto files that ours import into proto/third_party. Run when a version in pyproject.toml moves.

google/api and google/rpc come from the installed googleapis-common-protos; buf/validate from the protovalidate 1.1.1 source archive, the
last that holds it (Apache-2.0, as are the others).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import google.api
import google.rpc

THIRD_PARTY = Path(__file__).parent / "third_party"
GOOGLE_API = ("annotations", "client", "field_behavior", "http", "launch_stage", "resource")
PROTOVALIDATE = "protovalidate==1.1.1"


def main() -> None:
    """Rewrites proto/third_party."""
    shutil.rmtree(THIRD_PARTY, ignore_errors=True)
    for package, names in ((google.api, GOOGLE_API), (google.rpc, ("code", "error_details", "status"))):
        source = Path(package.__path__[0])
        target = THIRD_PARTY / "google" / source.name
        target.mkdir(parents=True)
        for name in names:
            shutil.copy(source / f"{name}.proto", target)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder, PROTOVALIDATE],
            check=True,
        )
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            member = next(name for name in archive.getnames() if name.endswith("buf/validate/validate.proto"))
            content = archive.extractfile(member)
            assert content is not None
            target = THIRD_PARTY / "buf" / "validate"
            target.mkdir(parents=True)
            (target / "validate.proto").write_bytes(content.read())


if __name__ == "__main__":
    main()
