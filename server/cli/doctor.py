"""`aisle doctor`: checks every part and says how to mend each fault."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict

import click

from server.cli.doors import check_doors
from server.embedded import Instance, Parts, running_instance, running_parts
from server.embedded import findings as local
from server.embedded.answers import check_database, check_redis, check_triton
from server.embedded.findings import Finding, fault_of
from server.errors import AisleError, CorruptDataError
from server.identity.tls import ClientTls, read_client_tls
from server.inference.encoder import BuiltEncoder, read_encoder
from server.settings import Settings

_SIGNS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object: `ok`, and `findings` with check, status, detail, mend.")
@click.option("--tls", is_flag=True, help="Ask a running server by TLS. Implied by AISLE_TLS_CERTIFICATE, by which it serves.")
@click.option(
    "--tls-ca", metavar="FILE", help="PEM file of the authorities to trust in place of the system's (AISLE_TLS_CA). Implies --tls."
)
@click.option("--tls-certificate", metavar="FILE", help="PEM file of a certificate to show the server (AISLE_TLS_CLIENT_CERTIFICATE).")
@click.option("--tls-key", metavar="FILE", help="PEM file of its private key (AISLE_TLS_CLIENT_KEY).")
def doctor(as_json: bool, tls: bool, tls_ca: str | None, tls_certificate: str | None, tls_key: str | None) -> None:
    """Checks versions, models, disk, ports, database, Redis, Triton and clocks, and a server that runs. Exits 1 on any fault.

    Asks the configured or running parts; without any it starts the embedded ones for a moment.
    """
    import orjson
    from rich.console import Console

    given = {"tls_ca": tls_ca, "tls_client_certificate": tls_certificate, "tls_client_key": tls_key}
    settings = Settings().model_copy(update={name: value for name, value in given.items() if value is not None})
    with Console(stderr=True).status("checking") as status:
        findings = asyncio.run(diagnose(settings, progress=status.update, tls=tls))
    faults = [finding for finding in findings if finding.status == "fault"]
    if as_json:
        print(orjson.dumps({"ok": not faults, "findings": [asdict(finding) for finding in findings]}, option=orjson.OPT_INDENT_2).decode())
    else:
        for finding in findings:
            print(f"{_SIGNS[finding.status]}  {finding.check:<15} {finding.detail}")
            if finding.mend:
                print(f"{'':24}mend: {finding.mend}")
    sys.exit(1 if faults else 0)


async def diagnose(settings: Settings, *, progress: Callable[[str], None], tls: bool = False) -> list[Finding]:
    """Returns the findings on this machine, on a server that runs here, asked by TLS or not, and on the parts that `settings` name.

    Raises:
        FailedPreconditionError: The files for TLS cannot be used.
    """
    instance = running_instance(settings.data_dir)
    models, encoder = _models(settings)
    doors = await check_doors(settings.grpc_address, settings.http_address, _client_tls(settings, wanted=tls))
    answers = any(one.check == "grpc door" and one.status == "ok" for one in doors)
    holder = f"process {instance.pid}" if instance else "a server that answers" if answers else ""
    findings = [*_machine(settings, holder), *models]
    if holder or tls:  # else whatever it is has no business there, which the addresses say
        findings += doors
    async with AsyncExitStack() as stack:
        try:
            parts = await _parts(settings, instance, encoder, stack, progress)
        except AisleError as error:
            return [*findings, fault_of("embedded parts", error, "see the log it names")]
        if parts.database_url:
            findings += await check_database(parts.database_url)
            schema = await _schema(parts.database_url)
            findings.append(schema)
            if schema.status == "ok":
                findings.append(await check_audit(parts.database_url))
        if parts.redis_url:
            findings += await check_redis(parts.redis_url)
        if parts.triton_url:
            findings += await check_triton(parts.triton_url)
        findings += [Finding("triton", "note", note) for note in parts.notes]
    return findings


def _client_tls(settings: Settings, *, wanted: bool) -> ClientTls | None:
    if not (wanted or settings.tls_ca or settings.tls_client_certificate or settings.tls_client_key or settings.tls_certificate):
        return None
    return read_client_tls(ca=settings.tls_ca, certificate=settings.tls_client_certificate, key=settings.tls_client_key, check_name=False)


def _machine(settings: Settings, holder: str) -> list[Finding]:
    """Returns what can be said without any server. `holder`: who rightly has the addresses, if anyone."""
    found = [local.check_python(), local.check_gpu()]
    if not settings.database_url:
        found.append(local.check_postgres_wheel())
    if not settings.redis_url:
        found.append(local.check_redis_wheel())
    if not settings.triton_url and settings.runtime != "local":
        found.append(local.check_triton_wheel())
    found += [local.check_folder("data folder", settings.data_dir), local.check_folder("cache folder", settings.cache_dir)]
    found.append(local.check_address("grpc address", settings.grpc_address, setting="AISLE_GRPC_ADDRESS", in_use=holder))
    found.append(local.check_address("http address", settings.http_address, setting="AISLE_HTTP_ADDRESS", in_use=holder))
    return found


def _models(settings: Settings) -> tuple[list[Finding], BuiltEncoder | None]:
    """Returns the findings on the built text encoders, every byte of which is read, and an intact one."""
    from training.text_encoder import cached_encoders

    found: list[Finding] = []
    intact = None
    for folder in cached_encoders(settings.cache_dir):
        try:
            intact = read_encoder(folder)
            found.append(Finding("text encoder", "ok", f"{intact.version}, checksums match"))
        except AisleError as error:
            found.append(fault_of("text encoder", error))
    if not found:
        found.append(Finding("text encoder", "note", "not built yet", "`aisle up` builds it, or `aisle models build`"))
    return found, intact


async def _parts(
    settings: Settings, instance: Instance | None, encoder: BuiltEncoder | None, stack: AsyncExitStack, progress: Callable[[str], None]
) -> Parts:
    """Returns the parts to ask: those configured, else the running instance's, else some started for the moment."""
    wants_triton = settings.runtime != "local" and not settings.triton_url
    if instance is not None:
        found = instance.parts
    elif settings.database_url and settings.redis_url and not wants_triton:
        found = Parts("", "", "", None, ())
    else:
        found = await stack.enter_async_context(
            running_parts(
                data_dir=settings.data_dir,
                database=not settings.database_url,
                redis=not settings.redis_url,
                triton=wants_triton,
                model_files={"text_encoder": encoder.onnx} if encoder else {},
                model_repository=settings.model_repository,
                progress=progress,
            )
        )
    return Parts(
        database_url=settings.database_url or found.database_url,
        redis_url=settings.redis_url or found.redis_url,
        triton_url="" if settings.runtime == "local" else settings.triton_url or found.triton_url,
        triton_repository=None,
        notes=found.notes,
    )


async def _schema(url: str) -> Finding:
    """Returns whether the database has this release's migrations."""
    import asyncpg

    from server.store.migrate import read_migrations

    try:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            known = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
            rows = await connection.fetch("SELECT version, name FROM schema_migrations") if known else []
        finally:
            await connection.close(timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        return fault_of("schema", error, "let the role of AISLE_DATABASE_URL own the database")
    applied = {int(row["version"]) for row in rows}
    wanted = {migration.version for migration in read_migrations()}
    if applied - wanted:
        return Finding("schema", "fault", "the database is newer than this release", "run the newer release")
    if wanted - applied:
        return Finding("schema", "note", f"{len(wanted - applied)} migrations pending", "`aisle migrate`, or `aisle up`")
    return Finding("schema", "ok", f"{len(applied)} migrations applied")


async def check_audit(url: str) -> Finding:
    """Returns whether every tenant's audit log is the chain that was written."""
    from server.store.audit import verify_audit
    from server.store.database import open_database
    from server.store.tenants import list_tenants

    entries = 0
    broken: list[str] = []
    try:
        async with open_database(url, max_connections=1) as database:
            async with database.system() as connection:
                tenants = await list_tenants(connection)
            for tenant in tenants:
                try:
                    async with database.tenant(tenant.tenant_id) as connection:
                        entries += await verify_audit(connection)
                except CorruptDataError as error:
                    broken.append(f"tenant {tenant.tenant_id}: {error.message}")
    except AisleError as error:
        return fault_of("audit log", error)
    if broken:
        return Finding("audit log", "fault", ", ".join(broken), "someone wrote past the triggers: compare audit_log with a backup")
    return Finding("audit log", "ok", f"{entries} entries of {len(tenants)} tenants, every chain intact")
