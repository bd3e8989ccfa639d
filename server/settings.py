"""All configuration. The only module that reads the environment.

Every field is set by `AISLE_` plus its name in upper case, or by a `.env` file in the working directory. `docs/operations.md` lists them;
a test compares.
"""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_QUOTAS = (("/sys/fs/cgroup/cpu.max",), ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
"""Files of the container's quota and period, of cgroups version 2 and 1."""


def usable_cores() -> int:
    """Returns the cores this process may keep busy, by affinity and the container's quota: containers overstate the machine's count."""
    cores = len(os.sched_getaffinity(0))
    for files in _QUOTAS:
        try:
            quota, period = " ".join(Path(file).read_text() for file in files).split()
            if int(quota) > 0:  # -1: none
                cores = min(cores, max(1, round(int(quota) / int(period))))
        except (OSError, ValueError):  # no such file, or `max`: none
            continue
    return cores


def _repository_root() -> Path:
    return Path(__file__).resolve().parent.parent


class ShapingSettings(BaseModel):
    """How lists are shaped: of the process, or of one tenant by `aisle tenants shape`."""

    diversity: float = Field(default=0.0, ge=0, le=0.9)
    """Weight of unlikeness against score when a list is put in order. 0: the order of scores."""

    vendor_cap: int = Field(default=0, ge=0, le=500)
    """Most items of one vendor in a list, as long as others are left to fill it. 0: any number."""

    vendor_attribute: str = "attributes.vendor"
    """Where an item names its vendor, as in a filter."""

    new_item_share: float = Field(default=0.0, ge=0, le=0.5)
    """Least share of a list that goes to new items, from the middle down. 0: none but what their scores give."""

    new_item_days: float = Field(default=14.0, gt=0, le=3650)
    """Days after its creation that an item is new."""

    exploration: float = Field(default=0.0, ge=0, le=0.5)
    """Probability that a place in the lower half of a list shows an item which the order would not. 0: none."""

    booked_event_types: str = "book,booking,purchase"
    """Event types, separated by commas, whose items are not recommended to their user again, `include_seen` or not."""

    repeatable_event_types: str = ""
    """Event types, separated by commas, whose items may be recommended again."""

    @field_validator("vendor_attribute")
    @classmethod
    def _attribute_path(cls, value: str) -> str:
        """Refuses what does not lead into an item's attributes."""
        first, *keys = value.split(".")
        if first != "attributes" or not keys or any(not key or key != key.strip() for key in keys):
            raise ValueError(f"is {value!r}; name a path into an item's attributes, such as attributes.vendor")
        return value

    @field_validator("booked_event_types", "repeatable_event_types")
    @classmethod
    def _event_types(cls, value: str) -> str:
        """Refuses what is no list of words, so that a wrong separator does not silently protect nothing."""
        if value.strip() and any(len(word.split()) != 1 or ";" in word for word in value.split(",")):
            raise ValueError(f"is {value!r}; name event types separated by commas, such as book,purchase, or nothing")
        return value


class Settings(ShapingSettings, BaseSettings):
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

    jwt_issuer: str = ""
    """`iss` of the tokens that are taken beside keys. Empty: none are."""

    jwt_audience: str = ""
    """`aud` that tokens must have."""

    jwt_keys: str = ""
    """The issuer's public keys as a JWKS: an `https://` URL or a file."""

    jwt_tenant_claim: str = "tenant"
    """The claim of a token that names its tenant."""

    jwt_roles_claim: str = "roles"
    """The claim of a token that lists its roles."""

    tls_certificate: str = ""
    """PEM file of the server's certificate chain, for both doors. Empty: no TLS."""

    tls_key: str = ""
    """PEM file of its private key."""

    tls_client_ca: str = ""
    """PEM file of the authorities of client certificates. Set: a connection without one is refused."""

    tls_clients: str = ""
    """JSON file: name in a client certificate -> tenant and scopes."""

    tls_ca: str = ""
    """PEM file of the authorities that sign servers, for commands that call one. Empty: the system's."""

    tls_client_certificate: str = ""
    """PEM file of the certificate chain that commands show a server which asks for one."""

    tls_client_key: str = ""
    """PEM file of its private key."""

    trusted_proxies: str = ""
    """Networks, separated by commas, whose `x-forwarded-for` is believed when guesses are counted."""

    read_timeout_s: float = Field(default=20.0, gt=0)
    """Seconds within which a HTTP request must have come whole."""

    local_tenant: str = "demo"
    """Tenant of a call that carries no key on loopback."""

    inference_threads: int = Field(default_factory=usable_cores, ge=1)
    """Threads that share one ONNX Runtime session, each running one batch at a time."""

    max_in_flight: int = Field(default=1024, ge=1)
    """Calls admitted at once, both doors together. Past it calls are answered RESOURCE_EXHAUSTED."""

    max_watches: int = Field(default=10_000, ge=1)
    """Streams of WatchPersonalization open at once. Past it more are answered RESOURCE_EXHAUSTED."""

    max_event_streams: int = Field(default=1000, ge=1)
    """Streams of StreamEvents open at once. Past it more are answered RESOURCE_EXHAUSTED."""

    max_slowdown: float = Field(default=0.0, ge=0)
    """How many times longer than on a quiet server calls may take on average before some are refused, such as 1.25.

    0: only `max_in_flight` counts.
    """

    key_rate: float = Field(default=0.0, ge=0, le=1_000_000)
    """Calls a second that one key may make, over all replicas. 0: any number."""

    tenant_rate: float = Field(default=0.0, ge=0, le=1_000_000)
    """Calls a second that one tenant may make, over all replicas. 0: any number."""

    rate_burst_s: float = Field(default=2.0, gt=0, le=3600)
    """Seconds' worth of a rate that may come at once."""

    default_timeout_s: float = Field(default=10.0, gt=0)
    """Deadline of a call that names none, in seconds."""

    max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Largest request or response, either door, in bytes."""

    cors_origins: str = ""
    """Origins whose pages may call over HTTP, separated by commas, such as `https://shop.example`; `*` for all, which then need a key."""

    http_cache: str = ""
    """Methods whose replies to GET caches may keep, with seconds: `aisle.v1.ItemService/GetItem=60,...`."""

    drain_s: float = Field(default=20.0, gt=0)
    """Seconds accepted requests get to finish after a stop signal."""

    connection_age_s: float = Field(default=60.0, ge=0)
    """Seconds after which a gRPC connection is asked to open anew. 0: never."""

    worker_name: str = ""
    """Name of this process among the event workers. Empty: host name and process id."""

    @field_validator("data_dir", "cache_dir", mode="before")
    @classmethod
    def _not_empty(cls, value: object) -> object:
        """Refuses the empty path, which would be the working directory."""
        if not str(value).strip():
            raise ValueError("must not be empty; name a folder, or unset it for the default")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        """Refuses what is no list of networks."""
        for word in filter(None, map(str.strip, value.split(","))):
            try:
                ip_network(word)
            except ValueError as error:
                raise ValueError(f"holds {word!r}: {error}; name networks such as 10.0.0.0/8, separated by commas") from error
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Refuses settings that need another which is missing."""
        if self.jwt_issuer and not (self.jwt_audience and self.jwt_keys):
            raise ValueError(
                "AISLE_JWT_ISSUER needs AISLE_JWT_AUDIENCE and AISLE_JWT_KEYS: without them any token of the issuer would open"
            )
        if (self.jwt_audience or self.jwt_keys) and not self.jwt_issuer:
            raise ValueError("AISLE_JWT_AUDIENCE and AISLE_JWT_KEYS do nothing without AISLE_JWT_ISSUER; set it")
        if self.tls_clients and not self.tls_client_ca:
            raise ValueError("AISLE_TLS_CLIENTS does nothing without AISLE_TLS_CLIENT_CA, which asks clients for certificates; set it")
        return self

    @field_validator("max_slowdown")
    @classmethod
    def _above_one(cls, value: float) -> float:
        """Refuses what no call could keep."""
        if 0 < value <= 1:
            raise ValueError(f"is {value}; calls cannot take less than on a quiet server: set more than 1, such as 1.5, or 0 for no limit")
        return value
