"""Puts interceptors around servicer methods, once, for both doors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from server.interceptors.call import Call

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

Handler = Callable[[Call, Message], Awaitable[Message]]
"""Answers a call, or raises."""

Interceptor = Callable[[Call, Message, Handler], Awaitable[Message]]
"""Answers a call with the help of the next handler."""


class InProcessDispatcher:
    """Answers calls by servicers in this process. A servicer has one method a RPC: `async def GetItem(call, request) -> reply`."""

    def __init__(self, servicers: Mapping[ServiceDescriptor, object], interceptors: Sequence[Interceptor]) -> None:
        self._methods: dict[str, MethodDescriptor] = {}
        self._handlers: dict[str, Handler] = {}
        for service, servicer in servicers.items():
            for method in service.methods:
                name = f"/{service.full_name}/{method.name}"
                handler: Handler = getattr(servicer, method.name)
                for interceptor in reversed(interceptors):
                    handler = partial(_intercepted, interceptor, handler)
                self._methods[name] = method
                self._handlers[name] = handler

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


async def _intercepted(interceptor: Interceptor, handler: Handler, call: Call, request: Message) -> Message:
    return await interceptor(call, request, handler)
