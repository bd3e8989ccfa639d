import asyncio
from pathlib import Path

import pytest

from server.domain import BundleId, TenantId
from server.errors import CorruptDataError, FailedPreconditionError, NotFoundError
from server.store import Database
from server.store.audit import verify_audit
from server.store.bundles import (
    fetch_bundle,
    get_bundle,
    list_bundles,
    live_bundle,
    promote_bundle,
    register_bundle,
    rollback_bundle,
)
from server.store.database import CHANGES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle's folder: a file of over two chunks, an empty one, and a manifest."""
    made = tmp_path / "bundle"
    made.mkdir()
    (made / "factors.npy").write_bytes(bytes(range(256)) * 40_000)
    (made / "empty.npy").touch()
    (made / "manifest.json").write_text("{}")
    return made


async def _register(database: Database, tenant_id: TenantId, folder: Path, *names: str) -> None:
    async with database.tenant(tenant_id) as connection:
        for name in names:
            await register_bundle(connection, BundleId(name), folder, {"name": name})


async def _promote(database: Database, tenant_id: TenantId, *names: str) -> None:
    async with database.tenant(tenant_id) as connection:
        for name in names:
            await promote_bundle(connection, BundleId(name))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_a_bundles_files_come_back_byte_for_byte(database: Database, tenant_id: TenantId, folder: Path, tmp_path: Path) -> None:
    """What was registered is what every replica fetches, and registering again changes nothing."""
    await _register(database, tenant_id, folder, "b-1", "b-1")
    target = tmp_path / "fetched"
    target.mkdir()
    async with database.tenant(tenant_id) as connection:
        bundle = await fetch_bundle(connection, BundleId("b-1"), target)
    assert _contents(folder) == _contents(target)
    assert (bundle.state, bundle.manifest) == ("TRAINED", {"name": "b-1"})


async def test_a_bundle_whose_bytes_changed_is_refused(database: Database, tenant_id: TenantId, folder: Path, tmp_path: Path) -> None:
    """A chunk that was altered or lost is CORRUPT_DATA naming the file."""
    await _register(database, tenant_id, folder, "b-1")
    async with database.tenant(tenant_id) as connection:
        await connection.execute("DELETE FROM bundle_files WHERE name = 'factors.npy' AND chunk = 1")
        with pytest.raises(CorruptDataError, match=r"factors\.npy"):
            await fetch_bundle(connection, BundleId("b-1"), tmp_path)


async def test_promote_and_rollback_walk_the_history(database: Database, tenant_id: TenantId, folder: Path) -> None:
    """At most one bundle is live; rollback leads back along the promotions, each step in the audit log."""
    await _register(database, tenant_id, folder, "b-1", "b-2", "b-3")
    async with database.tenant(tenant_id) as connection:
        assert await live_bundle(connection) is None
        with pytest.raises(FailedPreconditionError, match="nothing to roll back"):
            await rollback_bundle(connection)
        for name in ("b-1", "b-2", "b-3", "b-3"):
            assert (await promote_bundle(connection, BundleId(name))).state == "LIVE"
        assert (await get_bundle(connection, BundleId("b-2"))).state == "RETIRED"
        assert (await rollback_bundle(connection)).bundle_id == "b-2"
        assert (await rollback_bundle(connection)).bundle_id == "b-1"
        with pytest.raises(FailedPreconditionError):
            await rollback_bundle(connection)
        live = await live_bundle(connection)
        assert live is not None
        assert live.bundle_id == "b-1"
        assert [bundle.state for bundle in await list_bundles(connection)].count("LIVE") == 1
        with pytest.raises(NotFoundError):
            await promote_bundle(connection, BundleId("b-9"))
        assert await verify_audit(connection) == 5


async def test_two_promotions_at_once_leave_one_live_bundle(database: Database, tenant_id: TenantId, folder: Path) -> None:
    """Promotions of one tenant take turns; the loser's bundle is retired, not lost."""
    await _register(database, tenant_id, folder, "b-1", "b-2")
    await asyncio.gather(_promote(database, tenant_id, "b-1"), _promote(database, tenant_id, "b-2"))
    async with database.tenant(tenant_id) as connection:
        assert sorted(bundle.state for bundle in await list_bundles(connection)) == ["LIVE", "RETIRED"]


async def test_replicas_hear_of_a_promotion_once_it_is_committed(database: Database, tenant_id: TenantId, folder: Path) -> None:
    """A commit that changed bundles sends TENANT:bundles on the changes channel; one rolled back sends nothing."""
    await _register(database, tenant_id, folder, "b-1")
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with database.listen(CHANGES, heard.put_nowait):
        with pytest.raises(NotFoundError):
            await _promote(database, tenant_id, "b-1", "b-9")
        assert heard.empty()
        await _promote(database, tenant_id, "b-1")
        assert await asyncio.wait_for(heard.get(), 10) == f"{tenant_id}:bundles"
