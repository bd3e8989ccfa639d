"""Postgres, the system of record: one module a noun, plain functions over a connection of `Database.tenant()`."""

from server.store.database import Connection, Database, open_database

__all__ = ["Connection", "Database", "open_database"]
