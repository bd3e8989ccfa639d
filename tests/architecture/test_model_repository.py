"""The Triton configurations say what `server.inference.contract` says, and only what both kinds of Triton understand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from server.inference import RANKER, SEQUENCE_ENCODER, TEXT_ENCODER, ModelSpec
from server.inference.batcher import Limits
from server.inference.rank import MAX_ROWS

REPOSITORY = Path(__file__).parents[2] / "model_repository"
SPECS = {spec.name: spec for spec in (TEXT_ENCODER, RANKER, SEQUENCE_ENCODER)}
TYPES = {"INT64": model_config_pb2.TYPE_INT64, "FP32": model_config_pb2.TYPE_FP32}


def config_of(name: str) -> Any:
    """Parses a configuration, strictly: an unknown field is an error."""
    return text_format.Parse((REPOSITORY / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def dimensions(shape: tuple[int, ...]) -> list[int]:
    """The dimensions Triton writes: without the batch, and [1] where nothing is left."""
    return list(shape[1:]) or [1]


def test_every_folder_is_a_model_of_the_contract() -> None:
    """The repository holds the contract's models and nothing else: Triton takes every folder for a model."""
    assert {path.name for path in REPOSITORY.iterdir()} == set(SPECS)


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_a_configuration_states_the_contracts_tensors(spec: ModelSpec) -> None:
    """Names, types and shapes of inputs and outputs are those of the contract, in its order."""
    config = config_of(spec.name)
    assert config.name == spec.name
    for found, wanted in ((config.input, spec.inputs), (config.output, spec.outputs)):
        assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in found] == [
            (tensor.name, TYPES[tensor.datatype], dimensions(tensor.shape)) for tensor in wanted
        ]
        for tensor, specified in zip(found, wanted, strict=True):
            assert tensor.HasField("reshape") == (len(specified.shape) == 1)
            assert list(tensor.reshape.shape) == []


@pytest.mark.parametrize("name", SPECS)
def test_a_configuration_batches_without_waiting_on_one_core_an_instance(name: str) -> None:
    """Aisle batches itself, so Triton's queue delay is 0; one thread an instance, by the parameters both backends read."""
    config = config_of(name)
    assert config.backend == "onnxruntime"
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_CPU]
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "intra_op_thread_count": "1",
        "inter_op_thread_count": "1",
    }


def test_configurations_take_the_largest_batch_that_is_sent() -> None:
    """`max_batch_size` is at least what the batcher and the ranker send at once."""
    assert config_of(TEXT_ENCODER.name).max_batch_size >= Limits().rows
    assert config_of(RANKER.name).max_batch_size == MAX_ROWS
