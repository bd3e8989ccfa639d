"""MLServer: a custom runtime with adaptive batching, V2 REST. Started by `mlserver start` on a folder of two settings files.

Source: docs.seldon.ai/mlserver, "Custom inference runtimes" and "Adaptive batching".
"""

from __future__ import annotations

from typing import List  # noqa: UP035  # MLServer 1.7.1 has a codec for List[str], none for list[str]

import numpy as np
from mlserver import MLModel
from mlserver.codecs import decode_args
from text import Encoder


class Embedder(MLModel):  # type: ignore[misc]  # of another environment
    """Texts to vectors."""

    async def load(self) -> bool:
        """Loads the model in each worker."""
        self.encoder = Encoder()
        return True

    @decode_args  # type: ignore[untyped-decorator]
    async def predict(self, texts: List[str]) -> np.ndarray:  # type: ignore[type-arg]  # noqa: UP006
        """Embeds a batch."""
        return self.encoder.embed(texts)
