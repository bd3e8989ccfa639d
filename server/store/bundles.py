"""Bundles: what is deployed. Their files lie in the database, so that every replica can fetch them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from server.domain import BundleId
from server.errors import CorruptDataError, FailedPreconditionError, NotFoundError
from server.store.audit import append_audit
from server.store.database import Connection

_CHUNK_BYTES = 4 * 1024 * 1024
_SELECT = "SELECT bundle_id, state, manifest, files, create_time, promote_time, previous_bundle_id FROM bundles"


@dataclass(frozen=True, slots=True)
class BundleFile:
    """What a file must be."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A registered bundle, without the contents of its files."""

    bundle_id: BundleId
    state: str
    """`TRAINED`, `EVALUATED`, `SHADOW`, `CANARY`, `LIVE` or `RETIRED`; at most one of a tenant is `LIVE`."""
    manifest: Mapping[str, Any]
    """Lineage, metrics, weights: what training wrote into manifest.json."""
    files: Mapping[str, BundleFile]
    create_time: datetime
    promote_time: datetime | None
    previous_bundle_id: BundleId | None
    """What was live before; where `rollback_bundle` leads."""


async def register_bundle(
    connection: Connection, bundle_id: BundleId, folder: Path, manifest: Mapping[str, Any], *, state: str = "TRAINED"
) -> StoredBundle:
    """Stores every file that lies directly in `folder`, and returns the bundle.

    Ids name contents, so registering one again changes nothing.
    """
    known = await connection.fetchrow(f"{_SELECT} WHERE bundle_id = $1", bundle_id)
    if known is not None:
        return _stored(known)
    files = await asyncio.to_thread(_describe, folder)
    await connection.execute(
        "INSERT INTO bundles (bundle_id, state, manifest, files) VALUES ($1, $2, $3, $4)",
        bundle_id,
        state,
        dict(manifest),
        {name: {"bytes": file.size_bytes, "sha256": file.sha256} for name, file in files.items()},
    )
    for name in files:
        with (folder / name).open("rb") as stream:
            number = 0
            while content := await asyncio.to_thread(stream.read, _CHUNK_BYTES):
                await connection.execute(
                    "INSERT INTO bundle_files (bundle_id, name, chunk, content) VALUES ($1, $2, $3, $4)",
                    bundle_id,
                    name,
                    number,
                    content,
                )
                number += 1
    return await get_bundle(connection, bundle_id)


async def fetch_bundle(connection: Connection, bundle_id: BundleId, folder: Path) -> StoredBundle:
    """Writes the bundle's files into `folder`, which must exist, a chunk at a time, and returns the bundle.

    Raises:
        NotFoundError: No such bundle.
        CorruptDataError: A file does not have the size or checksum it was registered with.
    """
    bundle = await get_bundle(connection, bundle_id)
    for name in bundle.files:
        await fetch_bundle_file(connection, bundle, name, folder / name)
    return bundle


async def fetch_bundle_file(connection: Connection, bundle: StoredBundle, name: str, path: Path) -> None:
    """Writes one of the bundle's files to `path`, a chunk at a time.

    Raises:
        NotFoundError: The bundle has no such file.
        CorruptDataError: It does not have the checksum it was registered with.
    """
    bundle_id = bundle.bundle_id
    if name not in bundle.files:
        raise NotFoundError(f"bundles/{bundle_id}", f"bundles/{bundle_id} has no {name}; it was trained by an earlier version")
    file = bundle.files[name]
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        # One chunk a query: a cursor would hold them decoded side by side.
        for number in range(-(-file.size_bytes // _CHUNK_BYTES)):
            content = await connection.fetchval(
                "SELECT content FROM bundle_files WHERE bundle_id = $1 AND name = $2 AND chunk = $3", bundle_id, name, number
            )
            digest.update(content or b"")
            await asyncio.to_thread(stream.write, content or b"")
    if digest.hexdigest() != file.sha256:
        raise CorruptDataError(f"bundles/{bundle_id}: {name} is not what was registered; train anew", bundle=bundle_id, file=name)


async def get_bundle(connection: Connection, bundle_id: BundleId) -> StoredBundle:
    """Returns a bundle.

    Raises:
        NotFoundError: No such bundle.
    """
    row = await connection.fetchrow(f"{_SELECT} WHERE bundle_id = $1", bundle_id)
    if row is None:
        raise NotFoundError(f"bundles/{bundle_id}")
    return _stored(row)


async def live_bundle(connection: Connection) -> StoredBundle | None:
    """Returns the bundle that serves; None before the first promotion."""
    row = await connection.fetchrow(f"{_SELECT} WHERE state = 'LIVE'")
    return None if row is None else _stored(row)


async def list_bundles(connection: Connection) -> list[StoredBundle]:
    """Returns the tenant's bundles, newest first."""
    return [_stored(row) for row in await connection.fetch(f"{_SELECT} ORDER BY create_time DESC, bundle_id")]


async def promote_bundle(connection: Connection, bundle_id: BundleId, *, actor: str = "cli") -> StoredBundle:
    """Makes a bundle live and retires the one before, in one commit; replicas are told. Promoting the live one changes nothing.

    Raises:
        NotFoundError: No such bundle.
    """
    await _take_turn(connection)
    bundle = await get_bundle(connection, bundle_id)
    if bundle.state == "LIVE":
        return bundle
    before = await connection.fetchval("UPDATE bundles SET state = 'RETIRED' WHERE state = 'LIVE' RETURNING bundle_id")
    await connection.execute(
        "UPDATE bundles SET state = 'LIVE', promote_time = now(), previous_bundle_id = $2 WHERE bundle_id = $1", bundle_id, before
    )
    await append_audit(connection, actor=actor, action="promote_bundle", resource=f"bundles/{bundle_id}", details={"before": before})
    return await get_bundle(connection, bundle_id)


async def rollback_bundle(connection: Connection, *, actor: str = "cli") -> StoredBundle:
    """Retires the live bundle and makes the one before it live again, in one commit; returns the latter.

    Raises:
        FailedPreconditionError: Nothing is live, or nothing was before.
    """
    await _take_turn(connection)
    live = await live_bundle(connection)
    if live is None or live.previous_bundle_id is None:
        raise FailedPreconditionError("no bundle was live before this one, so there is nothing to roll back to; promote one by its id")
    await connection.execute("UPDATE bundles SET state = 'RETIRED' WHERE bundle_id = $1", live.bundle_id)
    await connection.execute("UPDATE bundles SET state = 'LIVE', promote_time = now() WHERE bundle_id = $1", live.previous_bundle_id)
    details = {"before": live.bundle_id}
    await append_audit(connection, actor=actor, action="rollback_bundle", resource=f"bundles/{live.previous_bundle_id}", details=details)
    return await get_bundle(connection, live.previous_bundle_id)


async def _take_turn(connection: Connection) -> None:
    """Waits for other promotions of the tenant, so that what is read below still holds when it is written."""
    # The lock that the table's trigger aisle_take_turn takes.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('aisle:bundles'), hashtext(current_setting('aisle.tenant_id')))")


def _describe(folder: Path) -> dict[str, BundleFile]:
    files = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as stream:
            files[path.name] = BundleFile(size_bytes=path.stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest())
    return files


def _stored(row: asyncpg.Record) -> StoredBundle:
    files = {name: BundleFile(size_bytes=file["bytes"], sha256=file["sha256"]) for name, file in row["files"].items()}
    return StoredBundle(**{**dict(row), "files": files})
