"""Triton by itself: the wheel's tritonserver with the shipped `text_encoder`, token ids in. Prints its address; ends with its input.

The only peer that runs in Aisle's own environment, which holds the wheel.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from server.embedded import running_parts
from server.settings import Settings


async def _serve() -> None:
    with tempfile.TemporaryDirectory(prefix="peer-triton-") as folder:
        models = {"text_encoder": Path(os.environ["PEER_MODEL"])}
        repository = Settings().model_repository
        async with running_parts(
            data_dir=Path(folder), database=False, redis=False, triton=True, model_files=models, model_repository=repository
        ) as parts:
            if not parts.triton_url:
                sys.exit(f"Triton did not start: {'; '.join(parts.notes)}")
            print(parts.triton_url, flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
