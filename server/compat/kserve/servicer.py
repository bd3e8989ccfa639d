"""`inference.GRPCInferenceService` as a servicer behind the interceptors, for both doors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2 as config_pb
from tritonclient.grpc import service_pb2 as pb

from server import __version__
from server.compat.kserve.tensors import reply_of, tensors_of
from server.domain.access import OPEN
from server.errors import InvalidFieldError
from server.interceptors.call import Call
from server.service.models import Model, Models

SERVICE = "inference.GRPCInferenceService"
_UNSUPPORTED = ("sequence_id", "sequence_start", "sequence_end", "shared_memory_region", "classification")
_OFFERED = {
    "ServerLive": OPEN,
    "ServerReady": OPEN,
    "ModelReady": "embeddings",
    "ServerMetadata": OPEN,
    "ModelMetadata": "embeddings",
    "ModelInfer": "embeddings",
    "ModelConfig": "embeddings",
    "RepositoryIndex": "embeddings",
}
"""Method -> the scope it needs, which the protocol's own proto cannot declare. Open is what a probe asks, and tells nothing of a tenant."""

SCOPES = {f"/{SERVICE}/{name}": scope for name, scope in _OFFERED.items()}
"""The same by full name with slashes."""

_TYPES = {"INT64": config_pb.TYPE_INT64, "FP32": config_pb.TYPE_FP32}


@dataclass(frozen=True, slots=True)
class OfferedService:
    """The methods of the protocol that are offered; Triton's clients know more."""

    full_name: str
    methods: tuple[MethodDescriptor, ...]


def offered_service() -> OfferedService:
    """Returns what is offered, from the message classes that Triton's client ships: two files cannot define one package."""
    described = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    return OfferedService(SERVICE, tuple(described.methods_by_name[name] for name in _OFFERED))


class KserveServicer:
    """Converts, calls, converts. A tenant sees the models of its own live bundle, and the text encoder."""

    def __init__(self, models: Models, ready: Callable[[], Awaitable[Sequence[str]]]) -> None:
        """Stores its arguments.

        Args:
            models: The use cases.
            ready: Says what keeps this process from serving.
        """
        self._models = models
        self._ready = ready

    async def ServerLive(self, call: Call, request: Message) -> pb.ServerLiveResponse:  # noqa: ARG002, N802
        """Says that this process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, call: Call, request: Message) -> pb.ServerReadyResponse:  # noqa: ARG002, N802
        """Says whether it takes work."""
        return pb.ServerReadyResponse(ready=not await self._ready())

    async def ServerMetadata(self, call: Call, request: Message) -> pb.ServerMetadataResponse:  # noqa: ARG002, N802
        """Names the server."""
        return pb.ServerMetadataResponse(name="aisle", version=__version__, extensions=["binary_tensor_data", "model_configuration"])

    async def ModelReady(self, call: Call, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:  # noqa: N802
        """Says whether the tenant has the model."""
        names = {(model.name, version) for model in await self._models.all(call.tenant_id) for version in ("", model.version)}
        return pb.ModelReadyResponse(ready=(request.name, request.version) in names)

    async def ModelMetadata(self, call: Call, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:  # noqa: N802
        """Describes a model's tensors."""
        model = await self._models.get(call.tenant_id, request.name, request.version)
        reply = pb.ModelMetadataResponse(name=model.name, versions=[model.version], platform="onnxruntime_onnx")
        for described, tensors in ((reply.inputs, model.spec.inputs), (reply.outputs, model.spec.outputs)):
            for tensor in tensors:
                described.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return reply

    async def ModelConfig(self, call: Call, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:  # noqa: N802
        """Describes a model as Triton's tools ask for it."""
        model = await self._models.get(call.tenant_id, request.name, request.version)
        return pb.ModelConfigResponse(config=_config(model))

    async def RepositoryIndex(self, call: Call, request: Message) -> pb.RepositoryIndexResponse:  # noqa: ARG002, N802
        """Lists the tenant's models."""
        reply = pb.RepositoryIndexResponse()
        for model in await self._models.all(call.tenant_id):
            reply.models.add(name=model.name, version=model.version, state="READY")
        return reply

    async def ModelInfer(self, call: Call, request: pb.ModelInferRequest) -> pb.ModelInferResponse:  # noqa: N802
        """Returns a model's outputs."""
        _check_parameters(request)
        model = await self._models.get(call.tenant_id, request.model_name, request.model_version)
        inputs = tensors_of(request, model.spec)
        model, answer = await self._models.infer(call.tenant_id, request.model_name, request.model_version, inputs, deadline=call.deadline)
        reply = reply_of(request, model.version, model.spec, answer.outputs)
        reply.parameters["runtime"].string_param = answer.runtime
        return reply


def _check_parameters(request: pb.ModelInferRequest) -> None:
    """Refuses what would be answered wrongly if it were passed over.

    Raises:
        InvalidFieldError: A parameter asks for state, shared memory or classification, which are not offered.
    """
    for where, holder in (
        ("parameters", request),
        *(("inputs", one) for one in request.inputs),
        *(("outputs", one) for one in request.outputs),
    ):
        for name in _UNSUPPORTED:
            if name in holder.parameters:
                raise InvalidFieldError(
                    f"{where}.parameters.{name}" if where != "parameters" else f"parameters.{name}", "is not offered here"
                )


def _config(model: Model) -> config_pb.ModelConfig:
    config = config_pb.ModelConfig(name=model.name, platform="onnxruntime_onnx", backend="onnxruntime", max_batch_size=0)
    for tensor in model.spec.inputs:
        config.input.add(name=tensor.name, data_type=_TYPES[tensor.datatype], dims=tensor.shape)
    for tensor in model.spec.outputs:
        config.output.add(name=tensor.name, data_type=_TYPES[tensor.datatype], dims=tensor.shape)
    return config
