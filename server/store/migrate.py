"""Forward-only schema migrations: numbered SQL files, each in its own transaction, one runner at a time."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from server.errors import FailedPreconditionError
from server.store.failures import translated_errors

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x61_69_73_6C_65  # "aisle"

_PREPARE = """
CREATE EXTENSION IF NOT EXISTS vector;
DO $$ BEGIN
    CREATE ROLE aisle_app NOLOGIN NOBYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- roles belong to the cluster: another database may have made it
END $$;
DO $$ BEGIN
    -- A role that may create roles does not by that alone may become those it created.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT aisle_app TO %I', current_user);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    IF NOT pg_has_role(current_user, 'aisle_app', 'MEMBER') THEN RAISE; END IF;
END $$;
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE schema_migrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE schema_migrations FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS system ON schema_migrations;
CREATE POLICY system ON schema_migrations TO CURRENT_USER USING (true) WITH CHECK (true);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """Returns the folder's `NNNN_name.sql` files in order.

    Raises:
        FailedPreconditionError: Two files share a number.
    """
    migrations = [Migration(int(path.name[:4]), path.stem, path.read_text()) for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))]
    for earlier, later in itertools.pairwise(migrations):
        if earlier.version == later.version:
            raise FailedPreconditionError(f"migrations {earlier.name} and {later.name} share a number; renumber the newer one")
    return migrations


async def migrate(url: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Applies what is missing and returns the names of the migrations applied, in order.

    Safe to run from several processes at once: they take turns, and the later ones find nothing to do. A migration that fails leaves
    those before it applied and itself undone.

    Raises:
        FailedPreconditionError: An applied file was edited since, the database is newer than this release, or the connecting role
            may not create the extension or the role.
        UnavailableError: The database cannot be reached.
    """
    wanted = read_migrations() if migrations is None else list(migrations)
    with translated_errors():
        connection = await asyncpg.connect(url, timeout=10)
        try:
            # Held by the session, so that it spans the transactions below.
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
            return await _apply(connection, wanted)
        except asyncpg.InsufficientPrivilegeError as error:
            raise FailedPreconditionError(
                f"the role of the database URL may not migrate ({error}); "
                "let it own the database and have CREATEROLE, and let a superuser run CREATE EXTENSION vector"
            ) from error
        finally:
            await connection.close(timeout=5)


async def _apply(connection: asyncpg.Connection[asyncpg.Record], wanted: Sequence[Migration]) -> list[str]:
    await connection.execute(_PREPARE)
    if await connection.fetchval("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = 'aisle_app'"):
        raise FailedPreconditionError("role aisle_app may bypass row-level security; run ALTER ROLE aisle_app NOSUPERUSER NOBYPASSRLS")
    applied = {row["version"]: row for row in await connection.fetch("SELECT version, name, checksum FROM schema_migrations")}
    unknown = sorted(applied.keys() - {migration.version for migration in wanted})
    if unknown:
        raise FailedPreconditionError(
            f"the database has migration {applied[unknown[-1]]['name']}, which this release does not know; run a newer release"
        )
    names = []
    for migration in wanted:
        row = applied.get(migration.version)
        if row is None:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                    migration.version,
                    migration.name,
                    migration.checksum,
                )
            names.append(migration.name)
        elif row["checksum"] != migration.checksum:
            raise FailedPreconditionError(
                f"migration {migration.name} was applied with other contents; restore the file and put the change into a new migration"
            )
    return names
