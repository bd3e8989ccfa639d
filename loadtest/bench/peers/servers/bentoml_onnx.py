"""BentoML: a batchable API with adaptive batching. Started by `bentoml serve bentoml_onnx:Embedder`.

`max_latency_ms` keeps its default, a minute: a call that BentoML expects to be later than that is answered with 503.
Source: docs.bentoml.com, "Adaptive batching" and "Create online API services".
"""

from __future__ import annotations

import bentoml
import numpy as np
from text import Encoder


@bentoml.service(workers=1, traffic={"timeout": 60})  # type: ignore[untyped-decorator]
class Embedder:
    """Texts to vectors."""

    def __init__(self) -> None:
        self.encoder = Encoder()

    @bentoml.api(batchable=True, max_batch_size=32)  # type: ignore[untyped-decorator]
    def embed(self, texts: list[str]) -> np.ndarray:  # type: ignore[type-arg]
        """Embeds a batch."""
        return self.encoder.embed(texts)
