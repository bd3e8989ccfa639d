"""Serves `backend: "onnxruntime"` models on a Triton that has only its Python backend: a Python-based backend around ONNX Runtime.

The same `config.pbtxt` runs unchanged on NGC Triton's native ONNX Runtime backend. Runs in Triton's stub process, so it imports nothing of
Aisle.
"""

# ruff: noqa: INP001  # Triton loads this file by its path

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of one model: an ONNX Runtime session over `<version>/model.onnx`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the session with the thread counts of the model's `parameters`."""
        config: dict[str, Any] = json.loads(args["model_config"])
        parameters = config.get("parameters", {})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", {}).get("string_value", "1"))
        options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", {}).get("string_value", "1"))
        file_name = config.get("default_model_filename") or "model.onnx"
        path = Path(args["model_repository"]) / args["model_version"] / file_name
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value["name"] for value in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request of a batch. A request that fails does not fail its neighbours."""
        responses = []
        for request in requests:
            try:
                feed = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
                values = self._session.run(self._outputs, feed)
                tensors = [pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in zip(self._outputs, values, strict=True)]
                responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
            except Exception as error:  # noqa: BLE001  # whatever ONNX Runtime raises belongs to this request alone
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))))
        return responses
