"""Bulk rows by COPY.

COPY into a table under row-level security is refused by Postgres, so rows are copied into a temporary table and inserted from there.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from server.store.database import Connection

# What a table is told not to compress would be compressed on its way there.
_KEPT_WHOLE = "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attname = ANY($2::text[]) AND attstorage = 'e'"


async def stage(connection: Connection, table: str, columns: Sequence[str], records: Iterable[Sequence[Any]]) -> str:
    """Copies records into a temporary table whose columns have the types of `table`'s, and returns its name for use in SQL.

    The table belongs to the connection and is made once: making one a batch would bloat the catalogue. Its rows end with the
    transaction, or with the next call for the same table and columns.

    Args:
        connection: Inside a transaction.
        table: A table of ours, never a name from input; likewise `columns`.
        columns: The columns the records fill, in order.
        records: One tuple a row.
    """
    names = ", ".join(columns)
    name = f"staged_{table}_{zlib.crc32(names.encode()):08x}"
    if await connection.fetchval("SELECT to_regclass($1)", f"pg_temp.{name}") is None:
        await connection.execute(f"CREATE TEMP TABLE {name} ON COMMIT DELETE ROWS AS SELECT {names} FROM {table} WITH NO DATA")  # noqa: S608  # names are ours
        for kept_whole in await connection.fetch(_KEPT_WHOLE, table, list(columns)):
            await connection.execute(f"ALTER TABLE pg_temp.{name} ALTER COLUMN {kept_whole[0]} SET STORAGE EXTERNAL")
    else:
        await connection.execute(f"TRUNCATE pg_temp.{name}")
    await connection.copy_records_to_table(name, records=records, columns=list(columns), schema_name="pg_temp")
    return f"pg_temp.{name}"
