"""A call, apart from the wire it came by, and the one way to have it answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from server.domain import TenantId


@dataclass(slots=True, kw_only=True)
class Call:
    """One request's circumstances. Interceptors fill `tenant_id` and `scopes`; nobody else writes them."""

    method: str
    """Full name with slashes, such as `/aisle.v1.ItemService/GetItem`."""
    door: Literal["grpc", "http"]
    metadata: Mapping[str, str]
    """Request metadata or headers, keys in lower case."""
    deadline: float
    """On the clock of `time.monotonic()`."""
    loopback: bool
    """Whether the peer is this machine."""
    tenant_id: TenantId = TenantId("")
    scopes: frozenset[str] = frozenset()
    response_metadata: dict[str, str] = field(default_factory=dict)
    """Sent back as initial metadata or headers."""


class CallError(Exception):
    """The only error that a dispatcher raises: what the wire shall carry."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class Dispatcher(Protocol):
    """Answers calls: in process by the interceptors and servicers, stand-alone by a channel."""

    @property
    def methods(self) -> Mapping[str, MethodDescriptor]:
        """Every method it answers, by full name with slashes."""
        ...

    async def unary(self, call: Call, request: Message) -> Message:
        """Returns the reply.

        Raises:
            CallError: The call failed, in any way.
        """
        ...
