"""Regenerates proto/gen: messages, their types, gRPC stubs, and the descriptor set with comments that OpenAPI is made from.

google/* is not generated: googleapis-common-protos ships it. buf/validate is: no wheel does.
"""

from __future__ import annotations

import shutil
import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
THIRD_PARTY = PROTO / "third_party"


def generate(target: Path) -> None:
    """Writes the generated tree into `target`, replacing it."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    ours = [str(path.relative_to(PROTO)) for path in sorted(PROTO.glob("aisle/v1/*.proto"))]
    common = ["protoc", f"-I{PROTO}", f"-I{THIRD_PARTY}", f"-I{files('grpc_tools') / '_proto'}"]
    commands = [
        [f"--python_out={target}", f"--mypy_out={target}", *ours, "buf/validate/validate.proto"],
        [f"--grpc_python_out={target}", f"--mypy_grpc_out={target}", *ours],
        ["--include_source_info", "--include_imports", f"--descriptor_set_out={target / 'aisle' / 'descriptors.binpb'}", *ours],
    ]
    for command in commands:
        if protoc.main([*common, *command]):
            sys.exit("protoc failed")
    for folder in ("aisle", "aisle/v1", "buf", "buf/validate"):
        (target / folder / "__init__.py").touch()


if __name__ == "__main__":
    generate(PROTO / "gen")
