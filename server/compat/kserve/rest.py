"""`/v2/...`: the protocol's REST form with the binary tensor extension, turned into calls of the servicer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import numpy as np
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from pydantic import ConfigDict, Field
from tritonclient.grpc import service_pb2 as pb

from server.compat.exchange import Body, Exchange, json_reply, only, read_json
from server.compat.kserve.servicer import SERVICE
from server.compat.kserve.tensors import check_size, json_values
from server.errors import InvalidFieldError, NotFoundError
from server.gateway.codec import dumps
from server.gateway.replies import Reply
from server.inference import Array

PREFIX = "/v2"
_HEADER_LENGTH = "inference-header-content-length"
_MODEL = re.compile(r"/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|config|infer))?")
_TYPES: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "FP32": np.dtype("<f4")}

_Reply = TypeVar("_Reply", bound=Message)


class _Snake(Body):
    model_config = ConfigDict(alias_generator=None)


class InferInput(_Snake):
    """One tensor: its values in `data`, or in the bytes behind the JSON."""

    name: Annotated[str, Field(max_length=256)]
    shape: Annotated[list[int], Field(max_length=8)]
    datatype: Annotated[str, Field(max_length=16)]
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any] | None = None


class InferOutput(_Snake):
    """An output that is asked for."""

    name: Annotated[str, Field(max_length=256)]
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferRequest(_Snake):
    """The JSON part of a request."""

    id: Annotated[str, Field(max_length=256)] = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=16)]
    outputs: Annotated[list[InferOutput], Field(max_length=16)] = Field(default_factory=list)


class KserveApi:
    """The REST form."""

    async def identify(self, exchange: Exchange) -> None:
        """Does nothing: the key comes as in Aisle's own API, in a header."""

    async def answer(self, exchange: Exchange) -> Reply:
        """Answers one request.

        Raises:
            NotFoundError: Nothing is at the path, or the tenant has no such model.
        """
        match exchange.path.rstrip("/"):
            case "":
                only(exchange, "GET")
                return json_reply(_as_dict(await _ask(exchange, "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)))
            case "/health/live":
                only(exchange, "GET")
                live = await _ask(exchange, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)
                return _said(yes=live.live)
            case "/health/ready":
                only(exchange, "GET")
                ready = await _ask(exchange, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)
                return _said(yes=ready.ready)
            case "/repository/index":
                only(exchange, "POST")
                index = await _ask(exchange, "RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
                return json_reply([_as_dict(model) for model in index.models])
        found = _MODEL.fullmatch(exchange.path)
        if found is None:
            raise NotFoundError(exchange.path[:100], f"nothing is at /v2{exchange.path[:100]}; see docs/compat.md")
        return await self._of_model(exchange, unquote(found["name"]), unquote(found["version"] or ""), found["verb"])

    async def _of_model(self, exchange: Exchange, name: str, version: str, verb: str | None) -> Reply:
        only(exchange, "POST" if verb == "infer" else "GET")
        match verb:
            case "ready":
                request = pb.ModelReadyRequest(name=name, version=version)
                return _said(yes=(await _ask(exchange, "ModelReady", request, pb.ModelReadyResponse)).ready)
            case "config":
                wanted = pb.ModelConfigRequest(name=name, version=version)
                return json_reply(_as_dict((await _ask(exchange, "ModelConfig", wanted, pb.ModelConfigResponse)).config))
            case "infer":
                return await _infer(exchange, name, version)
        asked = pb.ModelMetadataRequest(name=name, version=version)
        metadata = _as_dict(await _ask(exchange, "ModelMetadata", asked, pb.ModelMetadataResponse))
        for tensor in (*metadata["inputs"], *metadata["outputs"]):
            tensor["shape"] = [int(size) for size in tensor["shape"]]
        return json_reply(metadata)

    def refusal(self, status: Status, http_status: int) -> Reply:
        """Returns an error in the protocol's form."""
        return json_reply({"error": status.message}, http_status)


async def _ask(exchange: Exchange, method: str, request: Message, kind: type[_Reply]) -> _Reply:
    reply = await exchange.dispatcher.unary(exchange.call_of(f"/{SERVICE}/{method}"), request)
    assert isinstance(reply, kind)
    return reply


def _said(*, yes: bool) -> Reply:
    return Reply(200 if yes else 400, content_type="")


def _as_dict(message: Message) -> dict[str, Any]:
    content: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return content


async def _infer(exchange: Exchange, name: str, version: str) -> Reply:
    header, rest = _split(exchange)
    body = read_json(InferRequest, header)
    request = _to_proto(body, name, version, rest)
    reply = await _ask(exchange, "ModelInfer", request, pb.ModelInferResponse)
    return _to_reply(body, reply)


def _split(exchange: Exchange) -> tuple[bytes, bytes]:
    """Returns the JSON and the bytes of tensors behind it."""
    length = exchange.headers.get(_HEADER_LENGTH)
    if length is None:
        return exchange.body, b""
    if not length.isdecimal() or int(length) > len(exchange.body):
        raise InvalidFieldError(_HEADER_LENGTH, f"is {length[:20]!r}; it must be the length of the JSON, within the body")
    return exchange.body[: int(length)], exchange.body[int(length) :]


def _to_proto(body: InferRequest, name: str, version: str, rest: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=name, model_version=version, id=body.id)
    _copy_parameters(body.parameters, request.parameters)
    start = 0
    for index, tensor in enumerate(body.inputs):
        field = f"inputs[{index}]"
        added = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _copy_parameters(tensor.parameters, added.parameters)
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            request.raw_input_contents.append(_packed(tensor, field))
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) - start:
            raise InvalidFieldError(
                f"{field}.parameters.binary_data_size", f"is {str(size)[:20]}; {len(rest) - start} bytes are left in the body"
            )
        request.raw_input_contents.append(rest[start : start + size])
        start += size
    if start != len(rest):
        raise InvalidFieldError("body", f"has {len(rest) - start} bytes behind the last input; binary_data_size says where each ends")
    for output in body.outputs:
        _copy_parameters(output.parameters, request.outputs.add(name=output.name).parameters)
    return request


def _packed(tensor: InferInput, field: str) -> bytes:
    """Returns the raw form of values that came as JSON, flat or nested."""
    kind = _TYPES.get(tensor.datatype)
    if kind is None:
        raise InvalidFieldError(f"{field}.datatype", f"is {tensor.datatype!r}; models here take {', '.join(_TYPES)}")
    if tensor.data is None:
        raise InvalidFieldError(f"{field}.data", "is required where no binary_data_size is given")
    try:
        values: Array = np.asarray(tensor.data)
    except ValueError:  # lists of different lengths
        values = np.array([None])
    wanted = "iu" if tensor.datatype == "INT64" else "iuf"
    if values.size and values.dtype.kind not in wanted:
        raise InvalidFieldError(f"{field}.data", f"must hold {'whole numbers' if wanted == 'iu' else 'numbers'}, in lists of equal lengths")
    check_size(field, tensor.shape, values.size)
    return values.astype(kind).tobytes()


def _copy_parameters(given: Mapping[str, Any], target: Any) -> None:
    for name, value in given.items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            target[name].int64_param = value
        elif isinstance(value, str):
            target[name].string_param = value
        elif isinstance(value, float):
            target[name].double_param = value
        else:
            raise InvalidFieldError(f"parameters.{name[:60]}", "must be a text, a number or a boolean")


def _to_reply(body: InferRequest, reply: pb.ModelInferResponse) -> Reply:
    default = body.parameters.get("binary_data_output") is True
    binary = {output.name: output.parameters.get("binary_data", default) is True for output in body.outputs}
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for index, output in enumerate(reply.outputs):
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if binary.get(output.name, default):
            raw = reply.raw_output_contents[index]
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            entry["data"] = json_values(reply, index)
        outputs.append(entry)
    content = {
        "model_name": reply.model_name,
        "model_version": reply.model_version,
        **({"id": reply.id} if reply.id else {}),
        "parameters": {"runtime": reply.parameters["runtime"].string_param},
        "outputs": outputs,
    }
    header = dumps(content)
    if not tail:
        return Reply(200, header)
    return Reply(200, header + b"".join(tail), "application/octet-stream", {"inference-header-content-length": str(len(header))})
