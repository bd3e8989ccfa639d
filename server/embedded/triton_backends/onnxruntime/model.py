"""Serves `backend: "onnxruntime"` models on a Triton that has only its Python backend: a Python-based backend around ONNX Runtime.

The same `config.pbtxt` runs unchanged on NGC Triton's native ONNX Runtime backend. Runs in Triton's stub process, one an instance, so it
imports nothing of Aisle.
"""

# ruff: noqa: INP001, E402  # Triton loads this file by its path; the path to onnxruntime has to be set first

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# Triton's stub starts Python without reading PYTHONPATH, so the environment's packages are named here.
sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of one model: an ONNX Runtime session over `<version>/model.onnx`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the session with the thread counts of the model's `parameters`. Threads do not spin: other instances need the cores."""
        config: dict[str, Any] = json.loads(args["model_config"])
        parameters = config.get("parameters", {})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", {}).get("string_value", "1"))
        options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", {}).get("string_value", "1"))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        file_name = config.get("default_model_filename") or "model.onnx"
        path = Path(args["model_repository"]) / args["model_version"] / file_name
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = [value["name"] for value in config["input"]]
        self._outputs = [value["name"] for value in config["output"]]
        self._check_names(config["name"])

    def _check_names(self, model: str) -> None:
        """Refuses a file whose tensors are not the configuration's, at loading instead of at the first request."""
        for kind, wanted, values in (
            ("inputs", self._inputs, self._session.get_inputs()),
            ("outputs", self._outputs, self._session.get_outputs()),
        ):
            found = [value.name for value in values]
            if set(wanted) != set(found):
                raise pb_utils.TritonModelException(f"{model}: the file's {kind} are {found}, the configuration's {wanted}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests of one dynamic batch by one model call where their shapes allow it.

        A request that fails does not fail its neighbours.
        """
        feeds = [{name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs} for request in requests]
        if len(feeds) > 1 and len({tuple(feed[name].shape[1:] for name in self._inputs) for feed in feeds}) == 1:
            try:
                return self._together(feeds)
            except Exception:  # noqa: BLE001, S110  # one of them is at fault: asked alone, each gets its own answer or error
                pass
        return [self._alone(feed) for feed in feeds]

    def _together(self, feeds: list[dict[str, Any]]) -> list[Any]:
        values = self._session.run(self._outputs, {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs})
        ends = np.cumsum([len(feed[self._inputs[0]]) for feed in feeds])[:-1]
        parts = [np.split(value, ends) for value in values]  # one list an output, one part a request
        return [self._response(list(own)) for own in zip(*parts, strict=True)]

    def _alone(self, feed: dict[str, Any]) -> Any:
        try:
            return self._response(self._session.run(self._outputs, feed))
        except Exception as error:  # noqa: BLE001  # whatever ONNX Runtime raises belongs to this request alone
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def _response(self, values: list[Any]) -> Any:
        tensors = [pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in zip(self._outputs, values, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)
