"""Every example runs against the live server as its text says."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from server.inference import BuiltEncoder
from server.store import Database
from tests.aws_credentials import aws_key
from tests.fixtures_server import SHOP, Door, new_key

FOLDER = Path(__file__).parents[2] / "examples"


async def run(name: str, *arguments: str, **variables: str) -> str:
    """Returns what an example prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(FOLDER / name),
        *arguments,
        env={"PATH": os.environ["PATH"], **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, faults = await process.communicate()
    assert process.returncode == 0, faults.decode()
    return printed.decode()


async def test_aws_personalize(door: Door, database: Database) -> None:
    """The example lists five items with their titles, and ranks them after a click, with no more than the scopes it names."""
    credentials = await aws_key(database, SHOP, "recommend", "events", "aws")
    url = f"http://{door.serving.http_address}/compat/aws"
    variables = {
        "AWS_ENDPOINT_URL_PERSONALIZE_RUNTIME": url,
        "AWS_ENDPOINT_URL_PERSONALIZE_EVENTS": url,
        "AWS_ACCESS_KEY_ID": credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key,
    }
    printed = await run("aws_personalize.py", "couple-000005", **variables)
    assert printed.count("\n  5. ") == 2
    assert "After a click on " in printed


async def test_openai_embeddings(door: Door, database: Database) -> None:
    """The example finds the barn nearest to somewhere outdoors."""
    key = await new_key(database, SHOP, "embeddings")
    printed = await run("openai_embeddings.py", f"http://{door.serving.http_address}", key)
    assert "A barn with a meadow" in printed.splitlines()[1]


async def test_segment_events(door: Door, database: Database) -> None:
    """The example's visitor becomes its user, with the history of both."""
    key = await new_key(database, SHOP, "events", "profiles")
    printed = await run("segment_events.py", f"http://{door.serving.http_address}", key)
    user = printed.split(" became ")[1].partition(";")[0]
    profile = (await door.rest("GET", f"/v1/users/{user}/profile")).json()
    assert profile["traits"] == {"city": "Porto"}


async def test_tritonclient_infer(door: Door, database: Database, encoder: BuiltEncoder) -> None:
    """The example's two clients get the same vectors."""
    key = await new_key(database, SHOP, "embeddings")
    addresses = (door.serving.grpc_address, door.serving.http_address)
    printed = await run("tritonclient_infer.py", *addresses, key, str(encoder.tokenizer))
    assert printed.count("(2, 384)") == 2
    assert float(printed.split()[-1]) < 1e-5
