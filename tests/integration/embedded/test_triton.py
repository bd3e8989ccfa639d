from __future__ import annotations

import numpy as np
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
