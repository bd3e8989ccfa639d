"""The data folder: what lies where, one instance at a time, and sockets in a path short enough for the kernel."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, Self

from server.errors import FailedPreconditionError, InvalidFieldError

_SOCKET_PATH_BYTES = 107
"""Longest path of a unix socket on Linux, in bytes, without the closing zero. Source: unix(7), `sun_path`."""

_LONGEST_SOCKET_NAME = "pg/.s.PGSQL.5432.lock"

_REMAINS_WAIT_S = 20.0
"""How long a dead instance's guards may take to end its servers, in seconds."""


@dataclass(frozen=True)
class Parts:
    """Where the parts answer. An empty URL: that part was not asked for, or `notes` says why it is missing."""

    database_url: str
    redis_url: str
    triton_url: str
    """HOST:PORT of Triton's gRPC."""
    triton_repository: Path | None
    """The assembled model repository of the embedded Triton."""
    notes: tuple[str, ...]
    """One line each, for the operator: what is missing and how to mend it."""


@dataclass(frozen=True)
class Instance:
    """A running owner of a data folder, as it describes itself in `run/parts.json`."""

    pid: int
    command: str
    parts: Parts


def private_folder(path: Path) -> Path:
    """Makes `path`, readable by its owner only, and returns it absolute.

    Raises:
        InvalidFieldError: It cannot be made or written.
    """
    path = path.expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        message = f"{path}: {error.strerror or error}; name a folder that you can write in AISLE_DATA_DIR"
        raise InvalidFieldError("data_dir", message) from error
    return path


def socket_folder(data_dir: Path) -> Path:
    """Returns a private folder for this data folder's sockets: inside it, or in the temporary folder when its path is too long.

    The same data folder gets the same folder again, so a killed instance's sockets are replaced and not left behind.
    """
    inside = data_dir / "run"
    if len(os.fsencode(inside / _LONGEST_SOCKET_NAME)) <= _SOCKET_PATH_BYTES:
        return private_folder(inside)
    name = f"aisle-{os.geteuid()}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]}"
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if len(os.fsencode(base / name / _LONGEST_SOCKET_NAME)) > _SOCKET_PATH_BYTES or not os.access(base, os.W_OK):
        base = Path("/tmp")  # noqa: S108  # the only short path there always is; the folder's owner and mode are checked below
    folder = base / name
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        # Someone else made it first: their permissions are not ours to trust.
        folder = Path(tempfile.mkdtemp(prefix="aisle-", dir=base))
    return folder


class DataFolder:
    """The lock on one data folder, held while entered.

    The lock is a `flock`, and every guard process inherits it. So after a `kill -9` it is free only once the last embedded server of the
    dead instance is gone, and a new instance never meets the old one's servers.
    """

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir
        self.lock_fd = -1

    async def __aenter__(self) -> Self:
        """Takes the lock, waiting for the servers of a killed instance to end.

        Raises:
            InvalidFieldError: The folder cannot be written.
            FailedPreconditionError: Another instance runs on it.
        """
        private_folder(self.path / "run")
        descriptor = os.open(self.path / "run" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            patience = time.monotonic() + _REMAINS_WAIT_S
            while not _locked(descriptor, fcntl.LOCK_EX):
                owner = _owner(self.path)
                if owner is not None or time.monotonic() > patience:
                    _refuse(self.path, owner)
                await asyncio.sleep(0.05)
        except BaseException:
            os.close(descriptor)
            raise
        self.lock_fd = descriptor
        self.announce(Parts("", "", "", None, ()))
        return self

    async def __aexit__(self, *_: object) -> None:
        (self.path / "run" / "parts.json").unlink(missing_ok=True)
        os.close(self.lock_fd)
        self.lock_fd = -1

    def announce(self, parts: Parts) -> None:
        """Writes `run/parts.json`, by which other commands find this instance."""
        pid = os.getpid()
        text = json.dumps({"pid": pid, "started": _start_ticks(pid), "command": _command_line(pid), "parts": asdict(parts)}, default=str)
        target = self.path / "run" / "parts.json"
        partial = target.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)


def running_instance(data_dir: Path) -> Instance | None:
    """Returns the instance that runs on `data_dir` now, or None."""
    data_dir = data_dir.expanduser().absolute()
    lock = data_dir / "run" / "lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A shared lock: two commands that look at the same time do not take each other for an instance.
        return None if _locked(descriptor, fcntl.LOCK_SH) else _owner(data_dir)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int) -> bool:
    """Returns whether the lock could be taken at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(data_dir: Path) -> Instance | None:
    """Returns the living process that announced itself, or None if it is dead or has not yet written its name."""
    try:
        record = json.loads((data_dir / "run" / "parts.json").read_text(encoding="utf-8"))
        pid = int(record["pid"])
        # A process id is reused; with its start time it is not.
        if _start_ticks(pid) != record["started"]:
            return None
        return Instance(pid=pid, command=str(record["command"]), parts=_parts(record["parts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parts(record: Mapping[str, object]) -> Parts:
    repository = record["triton_repository"]
    notes = record["notes"]
    return Parts(
        database_url=str(record["database_url"]),
        redis_url=str(record["redis_url"]),
        triton_url=str(record["triton_url"]),
        triton_repository=Path(str(repository)) if repository else None,
        notes=tuple(str(note) for note in notes) if isinstance(notes, list) else (),
    )


def _start_ticks(pid: int) -> int:
    """Returns when a process started, in clock ticks since boot.

    Raises:
        OSError: It does not exist.
    """
    stat_line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    fields = stat_line.rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return int(fields[19])


def _command_line(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return os.fsdecode(b" ".join(words)).strip()[:200]


def _refuse(data_dir: Path, owner: Instance | None) -> NoReturn:
    who = f"process {owner.pid} ({owner.command})" if owner else "the servers of an instance that died"
    raise FailedPreconditionError(
        f"{data_dir} is in use by {who}; stop it, or choose another folder with AISLE_DATA_DIR",
        data_dir=data_dir,
        pid=owner.pid if owner else 0,
    )
