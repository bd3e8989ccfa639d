"""`aisle tenants`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from server.cli.command_database import command_database, require_tenant, run
from server.cli.printing import print_json, print_rows
from server.domain import TenantId
from server.domain.shaping import ShapingValues
from server.settings import ShapingSettings
from server.store.audit import append_audit
from server.store.shaping import all_shaping, change_shaping
from server.store.tenants import create_tenant, list_tenants, parse_tenant_id

_Command = TypeVar("_Command", bound=Callable[..., Any])

_WORDS = {name: name.replace("_", "-") for name in ShapingSettings.model_fields}
"""Setting -> how it is called here: as an option with two dashes, and without to reset it."""

_TYPES = {int: click.INT, float: click.FLOAT, str: click.STRING}
_as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group
def tenants() -> None:
    """Create, list, show and shape tenants."""


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
        print_json(created)
    else:
        click.echo(f"created tenant {name}; next: aisle keys create --tenant {name} --scopes recommend,events")


@tenants.command("list")
@_as_json
def list_tenants_command(as_json: bool) -> None:
    """List all tenants by name, with what they have set of their own for their lists."""

    async def work() -> list[dict[str, Any]]:
        async with command_database() as database, database.system() as connection:
            shaping = await all_shaping(connection)
            return [
                {**asdict(tenant), "shaping": shaping.get(tenant.tenant_id, ShapingValues()).given()}
                for tenant in await list_tenants(connection)
            ]

    found = run(work)
    if not as_json:
        found = [{**one, "shaping": " ".join(f"{name}={value}" for name, value in one["shaping"].items())} for one in found]
    print_rows(found, as_json=as_json)


@tenants.command("show")
@click.argument("name")
@_as_json
def show_tenant_command(name: str, as_json: bool) -> None:
    """Show tenant NAME and how its lists are shaped."""

    async def work() -> dict[str, Any]:
        tenant_id = parse_tenant_id(name)
        async with command_database() as database, database.tenant(tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            (tenant,) = await list_tenants(connection)  # a tenant sees itself alone
            return {**asdict(tenant), "shaping": (await all_shaping(connection)).get(tenant_id, ShapingValues()).given()}

    found = run(work)
    if as_json:
        print_json(found)
        return
    named = f" ({found['display_name']})" if found["display_name"] else ""
    click.echo(f"tenant {name}{named}, created {found['create_time'].isoformat(timespec='seconds')}")
    _print_shaping(found["shaping"])


def _shaping_options(command: _Command) -> _Command:
    """Adds an option for each setting of shaping, with the help and the checks that it has as a setting."""
    for name, field in reversed(ShapingSettings.model_fields.items()):
        kind = _TYPES[field.annotation]  # type: ignore[index]  # every field has one
        about = f"As AISLE_{name.upper()}, for this tenant."
        command = click.option(f"--{_WORDS[name]}", name, type=kind, callback=_checked, help=about)(command)
    return command


def _checked(_context: click.Context, option: click.Parameter, value: float | str | None) -> float | str | None:
    """Refuses what the setting of the same name would refuse."""
    if value is not None:
        try:
            ShapingSettings.model_validate({option.name: value})
        except ValidationError as error:
            raise click.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    return value


@tenants.command("shape")
@click.argument("name")
@_shaping_options
@click.option(
    "--reset",
    multiple=True,
    type=click.Choice([*_WORDS.values(), "all"]),
    help="Go back to the servers' setting. May be repeated; `all` goes back in everything that is not set beside it.",
)
@_as_json
def shape_tenant_command(name: str, reset: tuple[str, ...], as_json: bool, **values: float | str | None) -> None:
    """Shape the lists of tenant NAME otherwise than the servers' settings say. What is not named stays as it is.

    Running servers follow at once. docs/operations.md says what each setting does.
    """
    given = {setting: value for setting, value in values.items() if value is not None}
    back = {setting for setting, word in _WORDS.items() if word in reset}
    if back & given.keys():
        both = _WORDS[min(back & given.keys())]
        raise click.UsageError(f"--{both} is set and reset at once; do one of them")
    if "all" in reset:
        back = _WORDS.keys() - given.keys()
    if not given and not back:
        raise click.UsageError("nothing to change; name a setting, such as --diversity 0.1, or --reset one")
    changes = {**dict.fromkeys(sorted(back)), **given}

    async def work() -> ShapingValues:
        tenant_id = parse_tenant_id(name)
        async with command_database() as database, database.tenant(tenant_id) as connection:
            await require_tenant(connection, tenant_id)
            await append_audit(connection, actor="cli", action="shape_tenant", resource=f"tenants/{tenant_id}", details=changes)
            return await change_shaping(connection, changes)

    found = run(work).given()
    if as_json:
        print_json({"tenant_id": TenantId(name), "shaping": found})
        return
    click.echo(f"tenant {name}; running servers follow at once")
    _print_shaping(found)


def _print_shaping(own: dict[str, float | int | str]) -> None:
    width = max(map(len, _WORDS.values()))
    for name, word in _WORDS.items():
        value = (own[name] if own[name] != "" else "none") if name in own else f"as AISLE_{name.upper()} of the server"
        click.echo(f"  {word.ljust(width)}  {value}")
