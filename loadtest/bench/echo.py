"""The empty gRPC server: one grpc.aio process on uvloop whose method returns its request. Prints its port, serves until stdin closes."""

from __future__ import annotations

import asyncio
import sys

import grpc
import uvloop
from grpc import aio

METHOD = "/bench.Echo/Echo"


class _Echo(grpc.GenericRpcHandler):
    """Bytes in, the same bytes out, whatever the method."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        del handler_call_details
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        del context
        return request


async def _serve() -> None:
    server = aio.server()
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)  # the parent's end closes when it dies, however it dies
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(_serve())
