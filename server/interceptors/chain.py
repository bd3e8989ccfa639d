"""Puts interceptors around servicer methods, once, for both doors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from server.interceptors.call import Call, Said
from server.interceptors.status import convert_stream_errors

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

Handler = Callable[[Call, Message], Awaitable[Message]]
"""Answers a call, or raises."""

Interceptor = Callable[[Call, Message, Handler], Awaitable[Message]]
"""Answers a call with the help of the next handler."""


class Service(Protocol):
    """The methods of a service that are offered: a `ServiceDescriptor`, or a part of one."""

    @property
    def full_name(self) -> str:
        """Such as `aisle.v1.ItemService`."""
        ...

    @property
    def methods(self) -> Sequence[MethodDescriptor]:
        """Those offered."""
        ...


class InProcessDispatcher:
    """Answers calls by servicers in this process. A servicer has one method a RPC: `async def GetItem(call, request) -> reply`.

    The method of a server-streaming RPC returns an async generator of replies instead. The interceptors stand around its opening, so a
    stream that is open holds no permit of admission and is measured and checked once; its servicer bounds how many there are.

    The method of an RPC whose client streams is `async def StreamEvents(call, requests, unary) -> replies`, with an async iterator of
    `Said`. Its opening has no request yet: the interceptors see an `Empty`. What a message asks for goes to `unary` as a call of another
    method, and passes all interceptors there.
    """

    def __init__(self, servicers: Mapping[Service, object], interceptors: Sequence[Interceptor]) -> None:
        self._methods: dict[str, MethodDescriptor] = {}
        self._interceptors = interceptors
        self._handlers: dict[str, Handler] = {}
        self._conversing: dict[str, Callable[..., Awaitable[Any]]] = {}
        for service, servicer in servicers.items():
            for method in service.methods:
                name = f"/{service.full_name}/{method.name}"
                self._methods[name] = method
                if method.client_streaming:
                    self._conversing[name] = getattr(servicer, method.name)
                else:
                    self._handlers[name] = self._around(getattr(servicer, method.name))

    @property
    def methods(self) -> Mapping[str, MethodDescriptor]:
        """Every method it answers, by full name with slashes."""
        return self._methods

    async def unary(self, call: Call, request: Message) -> Message:
        """Returns the reply.

        Raises:
            CallError: The call failed, in any way.
        """
        return await self._handlers[call.method](call, request)

    async def stream(self, call: Call, request: Message) -> AsyncGenerator[Message, None]:
        """Opens a server-streaming call and returns its replies.

        Raises:
            CallError: The call could not be opened. Reading the replies raises nothing else either.
        """
        replies: Any = await self._handlers[call.method](call, request)
        return convert_stream_errors(call, replies)

    async def converse(self, call: Call, requests: AsyncIterator[Said]) -> AsyncGenerator[Message, None]:
        """Opens a call whose client streams and returns its replies. Raises as `stream`."""
        servicer_method = self._conversing[call.method]

        async def open_call(call: Call, _request: Message) -> Any:
            return await servicer_method(call, requests, self.unary)

        replies: Any = await self._around(open_call)(call, Empty())
        return convert_stream_errors(call, replies)

    def _around(self, handler: Handler) -> Handler:
        for interceptor in reversed(self._interceptors):
            handler = partial(_intercepted, interceptor, handler)
        return handler


async def _intercepted(interceptor: Interceptor, handler: Handler, call: Call, request: Message) -> Message:
    return await interceptor(call, request, handler)
