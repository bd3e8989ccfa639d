"""`aisle migrate`, `aisle keys`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from server.cli.command_database import command_database, command_parts, require_tenant, run
from server.cli.printing import print_json, print_rows
from server.domain.access import AWS, SCOPES
from server.store.keys import ApiKey, aws_credentials, create_key, list_keys, parse_scopes, revoke_key, rotate_key
from server.store.migrate import migrate as apply_migrations
from server.store.tenants import parse_tenant_id

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
        print_json({"applied": names})
    else:
        click.echo("\n".join(f"applied {name}" for name in names) or "nothing to apply: the database is up to date")


@click.group
def keys() -> None:
    """Create, list, rotate and revoke API keys."""


@keys.command("create", help=f"Create a key and print it, once. Scopes: {', '.join(SCOPES)}; admin opens everything, aws lets it sign.")
@_tenant
@click.option("--scopes", required=True, help="What the key opens, separated by commas.")
@click.option("--display-name", default="", help="What the key is for.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True, max=36_500), help="Days until the key expires. Default: it does not.")
@_as_json
def create_key_command(tenant: str, scopes: str, display_name: str, days: float | None, as_json: bool) -> None:
    """Create a key and print it, once."""
    wanted = parse_scopes(scopes.split(","))
    expire_time = None if days is None else datetime.now(UTC) + timedelta(days=days)

    async def work() -> tuple[str, ApiKey]:
        tenant_id = parse_tenant_id(tenant)
        async with command_database() as database, database.tenant(tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            return await create_key(connection, wanted, display_name=display_name, expire_time=expire_time)

    key, record = run(work)
    _print_key(key, record, f"key {record.key_id} of tenant {tenant} for {', '.join(record.scopes)}", as_json=as_json)


@keys.command("rotate")
@click.argument("key_id")
@_tenant
@click.option(
    "--overlap-days",
    type=click.FloatRange(0, 365),
    default=7.0,
    show_default=True,
    help="Days that the old key still opens. 0: it stops now.",
)
@_as_json
def rotate_key_command(key_id: str, tenant: str, overlap_days: float, as_json: bool) -> None:
    """Create a key like KEY_ID and print it, once; KEY_ID expires when its callers have had time to change over."""

    async def work() -> tuple[str, ApiKey]:
        tenant_id = parse_tenant_id(tenant)
        async with command_database() as database, database.tenant(tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            return await rotate_key(connection, key_id, overlap=timedelta(days=overlap_days))

    key, record = run(work)
    about = f"key {record.key_id} takes the place of {key_id}, which opens for {overlap_days:g} days more"
    _print_key(key, record, about, as_json=as_json)


@keys.command("list")
@_tenant
@_as_json
def list_keys_command(tenant: str, as_json: bool) -> None:
    """List a tenant's keys, without their secrets."""

    async def work() -> list[dict[str, Any]]:
        tenant_id = parse_tenant_id(tenant)
        async with command_database() as database, database.tenant(tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            return [asdict(key) for key in await list_keys(connection)]

    print_rows(run(work), as_json=as_json)


@keys.command("revoke")
@click.argument("key_id")
@_tenant
@_as_json
def revoke_key_command(key_id: str, tenant: str, as_json: bool) -> None:
    """Revoke the key with id KEY_ID (see `aisle keys list`) for good."""

    async def work() -> ApiKey:
        tenant_id = parse_tenant_id(tenant)
        async with command_database() as database, database.tenant(tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            return await revoke_key(connection, key_id)

    revoked = run(work)
    if as_json:
        print_json(asdict(revoked))
    else:
        click.echo(f"revoked key {key_id}; running servers refuse it within 30 s")


def _print_key(key: str, record: ApiKey, about: str, *, as_json: bool) -> None:
    """Prints the key alone on stdout, so that a script can keep it; what to know about it goes to stderr."""
    aws = asdict(aws_credentials(key, record)) if AWS in record.scopes else {}
    if as_json:
        print_json({"key": key, **asdict(record), **aws})
        return
    for name, value in aws.items():
        click.echo(f"AWS_{name.upper()}={value}", err=True)
    click.echo(f"{about}; it is not shown again:", err=True)
    click.echo(key)
