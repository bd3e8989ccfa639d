"""A small stand-in for `aisle serve`: runs the parts in the folder of argv[1], prints their addresses, then waits to be ended.

argv[2] is JSON: `model_repository`, `model_files` (both optional: no Triton without them), `uid` (optional: give up root for it first).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import uvloop

from server.embedded import running_parts
from server.embedded.guard import keep_reach
from server.errors import AisleError


async def _host(data_dir: Path, options: dict[str, object]) -> None:
    files = options.get("model_files", {})
    assert isinstance(files, dict)
    async with running_parts(
        data_dir=data_dir,
        database=True,
        redis=True,
        triton=bool(files),
        model_files={name: Path(path) for name, path in files.items()},
        model_repository=Path(str(options.get("model_repository", data_dir))),
        progress=lambda _: None,
    ) as parts:
        print(json.dumps(asdict(parts), default=str), flush=True)  # noqa: T201
        await asyncio.Event().wait()


def main() -> None:
    """Runs until a signal; exits 0 after Ctrl-C, 1 with one line on stderr when the parts cannot run."""
    options = json.loads(sys.argv[2])
    if "uid" in options:
        keep_reach(options["uid"], options["uid"])
        os.environ["HOME"] = "/nonexistent"
    try:
        uvloop.run(_host(Path(sys.argv[1]), options))
    except KeyboardInterrupt:
        sys.exit(0)
    except AisleError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
