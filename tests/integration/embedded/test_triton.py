from __future__ import annotations

import os

import numpy as np
import psutil
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from server.embedded import Parts


async def test_triton_serves_onnx_models_through_the_python_based_backend(parts_with_triton: Parts) -> None:
    """A model whose configuration says `backend: "onnxruntime"` runs on the wheel's Triton."""
    async with InferenceServerClient(parts_with_triton.triton_url) as client:
        rows = InferInput("x", [2, 3], "FP32")
        rows.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
        answer = await client.infer("doubler", [rows])
        assert answer.as_numpy("y").tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]


async def test_the_kernel_prefers_the_server_to_triton(parts_with_triton: Parts) -> None:
    """Where both want a core, calls that need no model do not wait for models: Triton is nicer than the process that runs it."""
    port = int(parts_with_triton.triton_url.rpartition(":")[2])
    (triton,) = [
        process
        for process in psutil.Process().children(recursive=True)
        if any(one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in process.net_connections("tcp"))
    ]
    assert triton.nice() == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)
