"""What a first `aisle up` puts into an empty database."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from server.cli.registry import train_tenant
from server.demo.generate import generate
from server.domain import Event, Profile, TenantId
from server.store import Database
from server.store import keys as key_store
from server.store.events import apply_events
from server.store.items import upsert_items
from server.store.tenants import ensure_tenant, list_tenants
from server.store.users import User, upsert_users

DEMO_COUPLES = 1000
DEMO_SEED = 7
_BATCH = 5000


async def ensure_demo(database: Database, tenant_id: TenantId, *, progress: Callable[[str], None]) -> None:
    """Fills a database that has no tenant with the demo tenant and its first bundle. One that has any is left alone.

    The catalogue is written last of the data, so a start that was interrupted is taken up again, not taken for done.
    """
    async with database.system() as connection:
        tenants = await list_tenants(connection)
    if any(tenant.tenant_id != tenant_id for tenant in tenants) or await _has_items(database, tenant_id):
        return
    progress(f"making the demo tenant {tenant_id!r}: {DEMO_COUPLES} couples and their journeys")
    async with database.system() as connection:
        await ensure_tenant(connection, tenant_id)
    demo = generate(DEMO_COUPLES, DEMO_SEED, datetime.now(UTC))
    async with database.tenant(tenant_id) as connection:
        await upsert_users(connection, map(_user, demo.users))
    for batch in _batches(demo.events):
        async with database.tenant(tenant_id) as connection:
            await apply_events(connection, tenant_id, batch)
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, demo.items)
    progress(f"demo tenant: {len(demo.items)} items, {len(demo.users)} couples, {len(demo.events)} events; training the first bundle")
    trained, state = await train_tenant(tenant_id, promote=True, sequential=False)  # nobody waits minutes for a first page
    progress(f"bundles/{trained.bundle_id} {state}")


async def ensure_local_key(database: Database, tenant_id: TenantId, data_dir: Path) -> str:
    """Returns the key of this instance's own tenant: kept in the data folder, readable by its owner alone, made at the first start."""
    path = data_dir / "keys" / tenant_id
    if path.exists():
        key = path.read_text().strip()
        if await key_store.authenticate(database, key) is not None:
            return key
    async with database.system() as connection:
        await ensure_tenant(connection, tenant_id)
    async with database.tenant(tenant_id) as connection:
        key, _ = await key_store.create_key(connection, ["admin"], display_name="aisle up")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    return key


async def _has_items(database: Database, tenant_id: TenantId) -> bool:
    async with database.tenant(tenant_id) as connection:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM items)"))


def _user(profile: Profile) -> User:
    return User(
        user_id=profile.user_id,
        traits=profile.traits,
        locale=profile.locale,
        time_zone=profile.time_zone,
        event_date=profile.event_date,
    )


def _batches(events: Sequence[Event]) -> list[list[Event]]:
    rest = iter(events)
    return list(iter(lambda: list(islice(rest, _BATCH)), []))
