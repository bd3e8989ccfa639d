"""Descriptors from a running server: the gRPC reflection protocol, its name of today first, then the older one.

Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from server.errors import FailedPreconditionError, NotFoundError, UnavailableError

_NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""The messages of both are the same bytes."""
_OWN = (*_NAMES, "grpc.health.v1.Health")
_TRIES = 3
"""Of each name: where a server refuses the stream while the question is being written, gRPC calls it an internal error of its own."""


class _Conversation:
    """One stream of questions and answers."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stream = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            request_serializer=ServerReflectionRequest.SerializeToString,
            response_deserializer=ServerReflectionResponse.FromString,
        )()

    async def ask(self, question: ServerReflectionRequest) -> ServerReflectionResponse:
        with suppress(asyncio.InvalidStateError):  # it has ended; reading says why
            await self._stream.write(question)
        answer = await self._stream.read()
        if not isinstance(answer, ServerReflectionResponse):
            raise FailedPreconditionError("the upstream ended reflection without an answer; use --descriptor-set")
        if answer.HasField("error_response"):
            raise NotFoundError(str(question).strip(), f"reflection: {answer.error_response.error_message}; use --descriptor-set")
        return answer

    def close(self) -> None:
        self._stream.cancel()


async def reflect(channel: grpc.aio.Channel, *, timeout_s: float) -> bytes:
    """Returns the serialized descriptor set of a server's services, less those of reflection and health. It has no comments.

    Raises:
        UnavailableError: The server does not answer in time.
        FailedPreconditionError: It offers no reflection, or no service of its own.
        NotFoundError: It does not find what it says it has.
    """
    try:
        async with asyncio.timeout(timeout_s):
            for name in _NAMES:
                found = await _described(channel, name)
                if found is not None:
                    return found.SerializeToString()
    except TimeoutError as error:
        raise UnavailableError("upstream", f"did not tell its services within {timeout_s:g} s; start it, or check --upstream") from error
    raise FailedPreconditionError("the upstream offers no reflection; enable it there, or give --descriptor-set FILE")


async def _described(channel: grpc.aio.Channel, name: str) -> FileDescriptorSet | None:
    """Returns what a server tells by one name of the protocol; None where it does not know the name."""
    tried = 0
    while True:
        tried += 1
        conversation = _Conversation(channel, name)
        try:
            return await _gather(conversation)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            if error.code() is not grpc.StatusCode.INTERNAL or tried == _TRIES:
                raise UnavailableError("upstream", f"cannot be asked for its services: {error.details()}") from error
        finally:
            conversation.close()


async def _gather(conversation: _Conversation) -> FileDescriptorSet:
    listed = await conversation.ask(ServerReflectionRequest(list_services=""))
    services = [service.name for service in listed.list_services_response.service if service.name not in _OWN]
    if not services:
        raise FailedPreconditionError("the upstream lists no service of its own in its reflection")
    files: dict[str, FileDescriptorProto] = {}
    for service in services:
        answer = await conversation.ask(ServerReflectionRequest(file_containing_symbol=service))
        _keep(files, answer.file_descriptor_response.file_descriptor_proto)
    while missing := {name for file in files.values() for name in file.dependency} - files.keys():
        for name in sorted(missing):
            answer = await conversation.ask(ServerReflectionRequest(file_by_filename=name))
            _keep(files, answer.file_descriptor_response.file_descriptor_proto)
            if name not in files:
                raise NotFoundError(name, f"reflection does not give {name!r}; use --descriptor-set")
    return FileDescriptorSet(file=files.values())


def _keep(files: dict[str, FileDescriptorProto], found: Sequence[bytes]) -> None:
    for data in found:
        file = FileDescriptorProto.FromString(data)
        files.setdefault(file.name, file)
