"""`aisle migrate`, `aisle tenants`, `aisle keys`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import orjson

from server.cli.command_database import command_database, command_parts, run
from server.domain import TenantId
from server.errors import NotFoundError
from server.store import Connection
from server.store.keys import SCOPES, ApiKey, create_key, list_keys, parse_scopes, revoke_key
from server.store.migrate import migrate as apply_migrations
from server.store.tenants import create_tenant, list_tenants, parse_tenant_id, tenant_exists

_as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_tenant = click.option("--tenant", required=True, help="Name of the tenant.")


@click.command
@_as_json
def migrate(as_json: bool) -> None:
    """Apply the migrations that the database does not have yet."""

    async def work() -> list[str]:
        async with command_parts(migrated=False) as parts:
            return await apply_migrations(parts.database_url)

    names = run(work)
    if as_json:
        _print_json({"applied": names})
    else:
        click.echo("\n".join(f"applied {name}" for name in names) or "nothing to apply: the database is up to date")


@click.group
def tenants() -> None:
    """Create and list tenants."""


@tenants.command("create")
@click.argument("name")
@click.option("--display-name", default="", help="What people call the tenant.")
@_as_json
def create_tenant_command(name: str, display_name: str, as_json: bool) -> None:
    """Create tenant NAME: 1 to 63 of a-z, 0-9 and '-'."""

    async def work() -> dict[str, Any]:
        tenant_id = parse_tenant_id(name)
        async with command_database() as database, database.system() as connection:
            return asdict(await create_tenant(connection, tenant_id, display_name=display_name))

    created = run(work)
    if as_json:
        _print_json(created)
    else:
        click.echo(f"created tenant {name}; next: aisle keys create --tenant {name} --scopes recommend,events")


@tenants.command("list")
@_as_json
def list_tenants_command(as_json: bool) -> None:
    """List all tenants by name."""

    async def work() -> list[dict[str, Any]]:
        async with command_database() as database, database.system() as connection:
            return [asdict(tenant) for tenant in await list_tenants(connection)]

    _print_rows(run(work), as_json=as_json)


@click.group
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command("create", help=f"Create a key and print it, once. Scopes: {', '.join(SCOPES)}; admin opens everything.")
@_tenant
@click.option("--scopes", required=True, help="What the key opens, separated by commas.")
@click.option("--display-name", default="", help="What the key is for.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True, max=36_500), help="Days until the key expires. Default: it does not.")
@_as_json
def create_key_command(tenant: str, scopes: str, display_name: str, days: float | None, as_json: bool) -> None:
    """Prints the key alone on stdout, so that a script can keep it; what to know about it goes to stderr."""
    wanted = parse_scopes(scopes.split(","))
    expire_time = None if days is None else datetime.now(UTC) + timedelta(days=days)

    async def work() -> tuple[str, ApiKey]:
        tenant_id = parse_tenant_id(tenant)
        async with command_database() as database, database.tenant(tenant_id) as connection:
            await _require_tenant(connection, tenant_id)
            return await create_key(connection, wanted, display_name=display_name, expire_time=expire_time)

    key, record = run(work)
    if as_json:
        _print_json({"key": key, **asdict(record)})
        return
    click.echo(f"key {record.key_id} of tenant {tenant} for {', '.join(record.scopes)}; it is not shown again:", err=True)
    click.echo(key)


@keys.command("list")
@_tenant
@_as_json
def list_keys_command(tenant: str, as_json: bool) -> None:
    """List a tenant's keys, without their secrets."""

    async def work() -> list[dict[str, Any]]:
        tenant_id = parse_tenant_id(tenant)
        async with command_database() as database, database.tenant(tenant_id) as connection:
            await _require_tenant(connection, tenant_id)
            return [asdict(key) for key in await list_keys(connection)]

    _print_rows(run(work), as_json=as_json)


@keys.command("revoke")
@click.argument("key_id")
@_tenant
@_as_json
def revoke_key_command(key_id: str, tenant: str, as_json: bool) -> None:
    """Revoke the key with id KEY_ID (see `aisle keys list`) for good."""

    async def work() -> ApiKey:
        tenant_id = parse_tenant_id(tenant)
        async with command_database() as database, database.tenant(tenant_id) as connection:
            await _require_tenant(connection, tenant_id)
            return await revoke_key(connection, key_id)

    revoked = run(work)
    if as_json:
        _print_json(asdict(revoked))
    else:
        click.echo(f"revoked key {key_id}; running servers refuse it within 30 s")


async def _require_tenant(connection: Connection, tenant_id: TenantId) -> None:
    if not await tenant_exists(connection, tenant_id):
        raise NotFoundError(f"tenants/{tenant_id}", f"tenant {tenant_id} does not exist; run `aisle tenants create {tenant_id}`")


def _print_json(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def _print_rows(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    if not rows:
        click.echo("none")
        return
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return ", ".join(value) if isinstance(value, tuple) else str(value or "")
