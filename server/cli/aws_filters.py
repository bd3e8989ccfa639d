"""`aisle import aws-filters`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import orjson

from server.cli.command_database import command_database, run
from server.compat.aws.filters import check_expressible, parse_filter
from server.errors import AisleError, FailedPreconditionError, InvalidFieldError
from server.store.aws_filters import put_filters
from server.store.tenants import ensure_tenant, parse_tenant_id


@dataclass(frozen=True, slots=True)
class Rejected:
    """A filter that is left out, and why."""

    name: str
    filterExpression: str  # noqa: N815  # as AWS writes it, so that the file can be mended and read again
    reason: str


def read_filters(content: bytes) -> Iterator[tuple[str, str]]:
    """Yields names and expressions, from what `aws personalize describe-filter` prints: one such object, a list of them, or one a line.

    Raises:
        InvalidFieldError: It is neither, or a filter lacks its name or expression.
    """
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            found = [orjson.loads(line) for line in content.splitlines() if line.strip()]
        except orjson.JSONDecodeError as error:
            raise InvalidFieldError("FILE", f"is neither JSON nor JSON lines: {error.msg}") from None
    for index, one in enumerate(found if isinstance(found, list) else [found]):
        inner: Any = one.get("filter", one) if isinstance(one, dict) else {}
        name, expression = (inner.get(key) if isinstance(inner, dict) else None for key in ("name", "filterExpression"))
        if not isinstance(name, str) or not name or not isinstance(expression, str):
            message = (
                'must have "name" and "filterExpression", as `aws personalize describe-filter` prints them (list-filters leaves them out)'
            )
            raise InvalidFieldError(f"FILE[{index}]", message)
        yield name, expression


def sort_out(filters: Sequence[tuple[str, str]]) -> tuple[dict[str, str], list[Rejected]]:
    """Returns the filters that can be expressed, and those that cannot."""
    good, bad = {}, []
    for name, expression in filters:
        try:
            check_expressible(parse_filter(expression))
        except AisleError as error:
            bad.append(Rejected(name, expression, error.message))
        else:
            good[name] = expression
    return good, bad


@click.command("aws-filters")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@click.option("--tenant", required=True, help="Name of the tenant; made if missing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def aws_filters(file: Path, tenant: str, as_json: bool) -> None:
    """Import filters of AWS Personalize, for its API at /compat/aws.

    FILE holds what `aws personalize describe-filter` prints for each filter, as a JSON list or one object a line. Filters that cannot be
    expressed are named with the reason, kept in FILE.rejected.jsonl, and do not stop the rest.
    """
    good, bad = sort_out(list(read_filters(file.read_bytes())))

    async def work() -> None:
        tenant_id = parse_tenant_id(tenant)
        async with command_database() as database:
            async with database.system() as connection:
                await ensure_tenant(connection, tenant_id)
            async with database.tenant(tenant_id) as connection:
                await put_filters(connection, good)

    if good:
        run(work)
    rejected_file = file.with_name(f"{file.name}.rejected.jsonl")
    if bad:
        rejected_file.write_bytes(b"".join(orjson.dumps(asdict(one)) + b"\n" for one in bad))
    if as_json:
        click.echo(orjson.dumps({"imported": sorted(good), "rejected": [asdict(one) for one in bad]}, option=orjson.OPT_INDENT_2).decode())
    else:
        click.echo(f"{len(good)} imported, {len(bad)} rejected")
    for one in bad:
        click.echo(f"{one.name}: {one.reason}", err=True)
    if bad and not good:
        raise FailedPreconditionError(f"no filter could be imported; {rejected_file} says why")
