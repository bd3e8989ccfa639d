"""All configuration. The only module that reads the environment.

Every field is set by `AISLE_` plus its name in upper case, or by a `.env` file in the working directory. `docs/operations.md` lists them;
a test compares.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _usable_cores() -> int:
    """Returns the cores this process may run on: affinity, not the machine's count, which containers overstate."""
    return len(os.sched_getaffinity(0))


def _repository_root() -> Path:
    return Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Everything an operator can set. Frozen: a change needs a restart."""

    model_config = SettingsConfigDict(env_prefix="AISLE_", env_file=".env", frozen=True, extra="ignore")

    data_dir: Path = Path("~/.local/share/aisle").expanduser()
    """State of the embedded parts and of this instance. Two instances need two folders."""

    cache_dir: Path = Path("~/.cache/aisle").expanduser()
    """Built models, by content. Immutable, so instances share it."""

    grpc_address: str = "127.0.0.1:50051"
    """HOST:PORT of the gRPC door. Port 0 chooses a free one."""

    http_address: str = "127.0.0.1:8080"
    """HOST:PORT of the HTTP door. Port 0 chooses a free one."""

    database_url: str = ""
    """PostgreSQL >= 15 with pgvector. Empty: the embedded one. Its role owns the database and steps down to `aisle_app`."""

    redis_url: str = ""
    """Redis >= 6.2 or Valkey. Empty: the embedded one."""

    triton_url: str = ""
    """HOST:PORT of Triton's gRPC. Empty: the embedded one."""

    runtime: Literal["auto", "triton", "local"] = "auto"
    """Which inference runtimes serve. `auto`: both, routed by expected completion time."""

    model_repository: Path = Field(default_factory=lambda: _repository_root() / "model_repository")
    """The Triton model repository that ships with Aisle."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is written."""

    otlp_endpoint: str = ""
    """OTLP gRPC endpoint for traces and metrics, such as `http://127.0.0.1:4317`. Empty: none are sent."""

    require_key: bool = False
    """Refuse calls without a key even on loopback. An address that other machines can reach is refused without it."""

    local_tenant: str = "demo"
    """Tenant of a call that carries no key on loopback."""

    inference_threads: int = Field(default_factory=_usable_cores, ge=1)
    """Threads that share one ONNX Runtime session, each running one batch at a time."""

    max_in_flight: int = Field(default=1024, ge=1)
    """Calls admitted at once, both doors together. Past it calls are answered RESOURCE_EXHAUSTED."""

    default_timeout_s: float = Field(default=10.0, gt=0)
    """Deadline of a call that names none, in seconds."""

    max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Largest request or response, either door, in bytes."""

    drain_s: float = Field(default=20.0, gt=0)
    """Seconds accepted requests get to finish after a stop signal."""

    worker_name: str = ""
    """Name of this process among the event workers. Empty: host name and process id."""

    @field_validator("data_dir", "cache_dir", mode="before")
    @classmethod
    def _not_empty(cls, value: object) -> object:
        """Refuses the empty path, which would be the working directory."""
        if not str(value).strip():
            raise ValueError("must not be empty; name a folder, or unset it for the default")
        return value
