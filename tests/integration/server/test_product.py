"""What newcomers meet first, on a whole server: the page, the Python client, its example, the load."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from aisle_client import AisleClient, InvalidArgumentError, NotFoundError, UnauthenticatedError
from server.demo.generate import Demo
from tests.fixtures_server import Door

_ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def client(door: Door) -> AsyncIterator[AisleClient]:
    """The published client with a key of the shop."""
    async with AisleClient(door.serving.grpc_address, key=door.key, timeout_s=20) as client:
        yield client


async def _python(*arguments: str, door: Door, **environment: str) -> tuple[int, str]:
    """Runs Python beside the server, which lives in this process, and returns its exit code and output."""
    paths = os.pathsep.join(str(_ROOT / part) for part in ("", "proto/gen", "clients/python"))
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": paths, "AISLE_GRPC_ADDRESS": door.serving.grpc_address, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode()


def _items(page: str) -> list[str]:
    return [unescape(item) for item in re.findall(r'name="item" value="([^"]+)"', page)]


async def test_clicking_on_the_page_changes_the_list(door: Door, shop: Demo) -> None:
    """A visitor without a key picks a couple, books the first item, and the next page has seen it and marks what moved."""
    user = shop.users[7].user_id
    first = await door.rest("GET", f"/?user={user}", key="")
    assert first.status_code == 200
    assert "rung FULL" in first.text
    shown = _items(first.text)
    assert len(shown) == 12
    form = {"user": user, "item": shown[0], "did": "book", "before": ",".join(shown)}
    reply = await door.rest("POST", "/act", key="", data=form)
    assert reply.status_code == 303
    after = await door.rest("GET", reply.headers["location"], key="")
    assert "booked" in after.text
    assert shown[0] not in _items(after.text)
    assert _items(after.text) != shown[1:]
    assert 'class="moved"' in after.text


async def test_the_newcomers_page_offers_couples_by_name(door: Door, shop: Demo) -> None:
    """The front page links to couples of the demo with their names and cities."""
    page = (await door.rest("GET", "/", key="")).text
    assert f"/?user={shop.users[0].user_id}" in page
    assert shop.users[0].traits["names"] in unescape(page)


async def test_the_client_recommends_and_sees_its_own_events(client: AisleClient, shop: Demo) -> None:
    """An item that was tracked as booked is gone from the list that carries the token."""
    user = shop.users[8].user_id
    before = await client.recommend_items(user, max_results=5, explain=True)
    assert before.items[0].reasons
    token = await client.track(user, "book", before.items[0].item)
    after = await client.recommend_items(user, max_results=5, consistency_token=token)
    assert after.consistent
    assert before.items[0].item not in [one.item for one in after.items]


async def test_the_client_gets_unit_vectors(client: AisleClient) -> None:
    """Text vectors are float32 of unit length, and numpy reads them without a copy."""
    found = await client.embed_texts(["a barn by the sea", "letterpress invitations"])
    matrix = np.asarray([one.vector for one in found.embeddings], np.float32)  # (2, 384)
    assert matrix.shape == (2, 384)
    assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-3)


async def test_the_clients_collections_are_searched_by_text_and_vector(client: AisleClient) -> None:
    """Vectors that the client stores are found again, by a vector and by the text they were made of."""
    texts = {"boat": "a wooden boat on the lake", "cake": "three tiers of lemon cake"}
    found = await client.embed_texts(list(texts.values()))
    vectors = {name: one.vector for name, one in zip(texts, found.embeddings, strict=True)}
    assert await client.upsert_vectors("client-notes", vectors, attributes={"cake": {"sweet": True}}) == 2
    assert (await client.search_vectors("client-notes", texts["boat"], k=1))[0][0] == "boat"
    assert [name for name, _ in await client.search_vectors("client-notes", vectors["boat"], k=2, filter="attributes.sweet = true")] == [
        "cake"
    ]
    assert await client.delete_vectors("client-notes", ["boat", "cake"]) == 2


async def test_the_servers_errors_arrive_typed(client: AisleClient, door: Door) -> None:
    """A filter that does not parse, an item that does not exist and a key nobody issued each raise their class with its reason."""
    with pytest.raises(InvalidArgumentError) as wrong:
        await client.recommend_items("u1", filter="price <= ")
    assert wrong.value.reason == "FILTER_SYNTAX"
    assert wrong.value.violations[0].field == "filter"
    with pytest.raises(NotFoundError) as missing:
        await client.get_item("no-such-item")
    assert missing.value.metadata["resource"] == "items/no-such-item"
    async with AisleClient(door.serving.grpc_address, key="aisle_shop_wrong") as stranger:
        with pytest.raises(UnauthenticatedError):
            await stranger.recommend_items("u1")


async def test_the_example_runs(door: Door) -> None:
    """The published example prints two lists, the second after an event that it has seen."""
    code, output = await _python("clients/python/examples/recommend.py", door.serving.grpc_address, door.key, door=door)
    assert code == 0, output
    assert "seen by this reply: True" in output


async def test_the_load_runs_without_an_error(door: Door, tmp_path: Path) -> None:
    """A few seconds of load by both doors fail no call, name the rungs, and write down what was acknowledged."""
    acknowledged = tmp_path / "acknowledged.txt"
    arguments = ("-m", "loadtest", "--seconds", "4", "--users", "4", "--acknowledged", str(acknowledged))
    code, output = await _python(*arguments, door=door, AISLE_HTTP_ADDRESS=door.serving.http_address, AISLE_KEY=door.key)
    assert code == 0, output
    assert re.search(r"rungs: \w+ \d+", output)
    assert "grpc" in output
    assert "rest" in output
    assert acknowledged.read_text().splitlines()
