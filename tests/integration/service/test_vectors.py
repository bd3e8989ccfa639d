"""Collections of vectors, as two replicas see them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import numpy as np
import pytest

from server.domain import TenantId
from server.errors import DeadlineExceededError, NotFoundError
from server.inference import BuiltEncoder, Inference, open_inference
from server.service.vectors import GivenVector, Vectors
from server.settings import Settings
from server.store import Database
from tests.eventually import eventually


@pytest.fixture(scope="module")
async def inference(encoder: BuiltEncoder) -> AsyncIterator[Inference]:
    """The encoder on the local runtime."""
    repository = Settings().model_repository
    async with open_inference(triton_url="", encoder=encoder, model_repository=repository, threads=1, runtime="local") as opened:
        yield opened


@pytest.fixture
async def replicas(database: Database, inference: Inference) -> AsyncIterator[list[Vectors]]:
    """Two processes' collections over one database."""
    async with AsyncExitStack() as stack:
        both = [Vectors(database, inference.encoder) for _ in range(2)]
        for one in both:
            await stack.enter_async_context(database.listen("aisle_changes", one.on_notice))
        yield both


def soon(seconds: float = 20.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


def given(*vector_ids: str) -> list[GivenVector]:
    """Vectors along the first of two axes, the first id's the longest."""
    return [GivenVector(name, np.array([1 - place / 10_000, 0], np.float32), {}) for place, name in enumerate(vector_ids)]


async def names(vectors: Vectors, tenant_id: TenantId, *, k: int = 10, deadline_s: float = 20.0) -> list[str]:
    """The ids that a search along the first axis finds."""
    found = await vectors.search(tenant_id, "docs", np.array([1, 0], np.float32), k=k, where="", deadline=soon(deadline_s))
    return [name for name, _ in found]


async def test_a_collection_made_anew_holds_nothing_of_the_old(replicas: list[Vectors], tenant_id: TenantId) -> None:
    """Once a collection was dropped and made again with the same dimension, no replica finds the old one's vectors."""
    near, far = replicas
    await near.upsert(tenant_id, "docs", given("old", "both"), deadline=soon())
    assert await names(far, tenant_id) == ["old", "both"]
    await near.drop(tenant_id, "docs", deadline=soon())
    await near.upsert(tenant_id, "docs", given("new", "both"), deadline=soon())
    assert await names(near, tenant_id) == ["new", "both"]

    async def same() -> bool:
        return await names(far, tenant_id) == ["new", "both"]

    await eventually(same)


async def test_a_dropped_collection_is_gone_everywhere(replicas: list[Vectors], tenant_id: TenantId) -> None:
    """Other replicas answer NOT_FOUND for a collection that one dropped."""
    near, far = replicas
    await near.upsert(tenant_id, "docs", given("a"), deadline=soon())
    assert await names(far, tenant_id) == ["a"]
    await near.drop(tenant_id, "docs", deadline=soon())

    async def gone() -> bool:
        try:
            await names(far, tenant_id)
        except NotFoundError:
            return True
        return False

    await eventually(gone)


async def test_missed_notices_make_the_next_search_look(database: Database, inference: Inference, tenant_id: TenantId) -> None:
    """A replica that may have missed notices takes in at its next search what others wrote meanwhile."""
    near, deaf = Vectors(database, inference.encoder), Vectors(database, inference.encoder)
    await near.upsert(tenant_id, "docs", given("a"), deadline=soon())
    assert await names(deaf, tenant_id) == ["a"]
    await near.upsert(tenant_id, "docs", given("a", "b"), deadline=soon())
    assert await names(deaf, tenant_id) == ["a"]
    deaf.on_notice("")
    assert await names(deaf, tenant_id) == ["a", "b"]


async def test_a_failed_look_is_made_up_for(database: Database, inference: Inference, tenant_id: TenantId) -> None:
    """When changes cannot be read in time the search says so, and the next one that can takes them in."""
    near, far = Vectors(database, inference.encoder), Vectors(database, inference.encoder)
    await near.upsert(tenant_id, "docs", given("a"), deadline=soon())
    assert await names(far, tenant_id) == ["a"]
    await near.upsert(tenant_id, "docs", given("a", "b"), deadline=soon())
    far.on_notice(f"{tenant_id}:collections")
    async with database.system() as connection:
        await connection.execute("LOCK TABLE collections IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DeadlineExceededError):
            await names(far, tenant_id, deadline_s=0.1)
    assert await names(far, tenant_id) == ["a", "b"]


async def test_many_vectors_are_taken_in_by_pages(replicas: list[Vectors], tenant_id: TenantId) -> None:
    """A collection of more than one page is whole on a replica that loads it, in the order of the scores."""
    near, far = replicas
    wanted = [f"v{number}" for number in range(4500)]
    await near.upsert(tenant_id, "docs", given(*wanted), deadline=soon())
    assert await names(far, tenant_id, k=4500) == wanted
