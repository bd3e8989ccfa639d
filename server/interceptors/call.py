"""A call, apart from the wire it came by, and the one way to have it answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from server.domain import TenantId

if TYPE_CHECKING:
    from server.domain.access import Principal


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
    signed_by: Principal | None = None
    """Who signed the request, where it carries no key but a signature that the door has checked."""
    peer: str = ""
    """Address of the other end of the connection, without a port; empty for a unix socket."""
    certificate: tuple[str, ...] = ()
    """Names in the client certificate, which the TLS handshake has verified; empty without one."""
    tenant_id: TenantId = TenantId("")
    scopes: frozenset[str] = frozenset()
    credential: str = ""
    """What the caller showed, by a name that is no secret, such as `key:5f2c01`. Filled by `Auth`, too."""
    response_metadata: dict[str, str] = field(default_factory=dict)
    """Sent back as initial metadata or headers."""


class CallError(Exception):
    """The only error that a dispatcher raises: what the wire shall carry."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


Said = Message | CallError
"""One message of a client's stream, or why it could not be read: the next may be."""


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

    async def stream(self, call: Call, request: Message) -> AsyncGenerator[Message, None]:
        """Opens a server-streaming call and returns its replies; close them to end it.

        `call.deadline` bounds the opening alone: whoever reads ends the call when its time is up.

        Raises:
            CallError: The call could not be opened. Reading the replies raises nothing else either.
        """
        ...

    async def converse(self, call: Call, requests: AsyncIterator[Said]) -> AsyncGenerator[Message, None]:
        """Opens a call whose client streams and returns its replies, one or many; close them to end it. As `stream` otherwise."""
        ...
