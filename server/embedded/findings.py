"""What `aisle doctor` finds on this machine: wheels, libraries, folders, ports. Each fault says how to mend it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from server.embedded.folders import private_folder
from server.embedded.postgres import postgres_programs
from server.embedded.redis import redis_binary
from server.embedded.triton import runnable_wheel
from server.errors import AisleError

_LEAST_FREE_BYTES = 1 << 30
_MENDS = re.compile(r"; (?=[^;]*$)")


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    status: Literal["ok", "note", "fault"]
    """`note`: Aisle runs, with less. `fault`: it does not, or breaks a promise."""
    detail: str
    mend: str = ""
    """What to do; empty when all is well."""


def fault_of(check: str, error: Exception, mend: str = "") -> Finding:
    """Returns an error as a fault. Aisle's own messages end with their mend after the last semicolon."""
    message = error.message if isinstance(error, AisleError) else f"{type(error).__name__}: {error}"
    parts = _MENDS.split(message, maxsplit=1)
    if not mend and len(parts) == 2:
        return Finding(check, "fault", parts[0], parts[1])
    return Finding(check, "fault", message, mend)


def check_python() -> Finding:
    """Returns whether the running Python is one that Aisle's wheels exist for."""
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "ok", f"Python {found}")
    return Finding("python", "fault", f"Python {found}", "use Python 3.11 or 3.12")


def check_postgres_wheel() -> Finding:
    """Returns whether the wheel's PostgreSQL runs here."""
    return _program("postgres wheel", lambda: postgres_programs() / "postgres")


def check_redis_wheel() -> Finding:
    """Returns whether the wheel's Redis runs here."""
    return _program("redis wheel", redis_binary)


def check_triton_wheel() -> Finding:
    """Returns whether the wheel's Triton has its libraries. Without it the local runtime serves, so it is a note."""
    try:
        runnable_wheel()
        return Finding("triton wheel", "ok", f"nvidia-pytriton {version('nvidia-pytriton')}; the stub finds its libraries")
    except (AisleError, OSError, subprocess.SubprocessError, PackageNotFoundError) as error:
        fault = fault_of("triton wheel", error)
        return Finding(fault.check, "note", f"{fault.detail}; the local runtime serves alone", fault.mend)


def check_gpu() -> Finding:
    """Returns whether FAISS uses the GPUs that are here."""
    import faiss

    usable = int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if usable:
        return Finding("gpu", "ok", f"{usable} for retrieval")
    if present:
        return Finding("gpu", "note", f"{present} here, FAISS is built for the CPU", "install a FAISS with GPU, or run Dockerfile.gpu")
    return Finding("gpu", "ok", "none; retrieval and inference run on the CPU")


def check_folder(check: str, path: Path) -> Finding:
    """Returns whether a folder can be written and has room."""
    try:
        folder = private_folder(path)
        free = shutil.disk_usage(folder).free
    except (AisleError, OSError) as error:
        return fault_of(check, error)
    detail = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < _LEAST_FREE_BYTES:
        return Finding(check, "fault", detail, f"free some disk space: less than {_LEAST_FREE_BYTES >> 30} GiB is left for data and logs")
    return Finding(check, "ok", detail)


def check_address(check: str, address: str, *, setting: str, in_use: str) -> Finding:
    """Returns whether HOST:PORT can be bound.

    Args:
        check: The finding's name.
        address: HOST:PORT; an IPv6 host stands in brackets.
        setting: The environment variable that names it.
        in_use: Who rightly has the address now, or an empty string.
    """
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]") or "127.0.0.1", int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except (OSError, ValueError, OverflowError) as error:
        if in_use and "in use" in str(error):
            return Finding(check, "ok", f"{address}, in use by {in_use}")
        return Finding(check, "fault", f"{address}: {error}", f"stop what uses it, or set {setting} to another HOST:PORT")
    return Finding(check, "ok", f"{address} is free")


def _program(check: str, find: Callable[[], Path]) -> Finding:
    try:
        result = subprocess.run([str(find()), "--version"], capture_output=True, text=True, timeout=10, check=True)
    except AisleError as error:
        return fault_of(check, error)
    except (OSError, subprocess.SubprocessError) as error:
        return fault_of(check, error, "the wheel's program does not run here; reinstall `aisle[embedded]`, or set the part's URL")
    return Finding(check, "ok", result.stdout.strip().split(" sha=")[0])
