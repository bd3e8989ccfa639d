from __future__ import annotations

import numpy as np
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st

from server.domain.ranking import RANKER_FEATURES
from server.inference import contract
from server.retrieval.fusion import FusionWeights, retrieval_score
from training.ranker import ranker_model


def test_features_are_those_of_the_model_contract() -> None:
    """What retrieval computes is what the ranker takes."""
    assert contract.RANKER_FEATURES == RANKER_FEATURES


@given(
    st.builds(
        FusionWeights,
        sparse=st.floats(0, 2),
        cosine_mix=st.floats(0, 4),
        collaborative=st.floats(0, 2),
        popularity=st.floats(0, 1),
        semantic=st.floats(0, 4),
        contextual=st.floats(0, 1),
    ),
    st.integers(0, 2**32 - 1),
)
def test_the_exported_ranker_equals_numpy(weights: FusionWeights, seed: int) -> None:
    """The ONNX model and the fallback give the same score within 1e-5."""
    features = np.random.default_rng(seed).uniform(-1, 1, (17, len(RANKER_FEATURES))).astype(np.float32)
    features[:, 4:9] = np.abs(features[:, 4:9])
    session = onnxruntime.InferenceSession(ranker_model(weights).SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"features": features})
    np.testing.assert_allclose(scores, retrieval_score(features, weights), atol=1e-5, rtol=1e-5)
