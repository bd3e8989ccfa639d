"""Every runtime keeps the contract of `server.inference.Runtime`: the local one and a real Triton."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from server.embedded import Parts
from server.errors import (
    AisleError,
    CorruptDataError,
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from server.inference import RANKER, SEQUENCE_ENCODER, TEXT_ENCODER, BuiltEncoder, EncodedHistory, LocalRuntime, Runtime, TritonRuntime
from server.inference.sequence import sequence_inputs
from tests.model_factories import FEATURES, linear_ranker, tiny_bert, tiny_sequence_encoder
from training.text_encoder import build_text_encoder

REPOSITORY = Path(__file__).parents[2] / "model_repository"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> BuiltEncoder:
    """A built encoder with random weights."""
    folder = tmp_path_factory.mktemp("encoder")
    return build_text_encoder(tiny_bert(folder / "tiny"), folder / "cache", lambda _message, _done: None)


@pytest.fixture(scope="module")
async def local() -> AsyncIterator[Runtime]:
    """The runtime in this process."""
    runtime = LocalRuntime(threads=2)
    yield runtime
    await runtime.close()


@pytest.fixture(scope="module")
async def triton(parts_with_triton: Parts) -> AsyncIterator[Runtime]:
    """The runtime on a real Triton."""
    runtime = TritonRuntime(parts_with_triton.triton_url, model_repository=REPOSITORY)
    yield runtime
    await runtime.close()


@pytest.fixture(params=["local", "triton"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each runtime in turn."""
    found: Runtime = request.getfixturevalue(request.param)
    return found


def tokens(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random texts of random lengths, padded to `length`."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, length + 1, rows)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    return {"input_ids": random.integers(0, 150, (rows, length)) * mask, "attention_mask": mask}


def features(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ranker features."""
    return {"features": np.random.default_rng(seed).normal(size=(rows, FEATURES)).astype(np.float32)}


def history(length: int, seed: int = 0) -> EncodedHistory:
    """A random history as a sequence encoder reads it."""
    random = np.random.default_rng(seed)
    return EncodedHistory(random.normal(size=(length, 384)).astype(np.float32), random.integers(1, 16, length), np.arange(length) * 60.0)


async def test_a_history_has_one_vector_on_every_runtime(runtime: Runtime, local: Runtime) -> None:
    """A sequence encoder answers alike on both runtimes, in any batch, for one event and for 200."""
    for one in (runtime, local):
        await one.load("sequence_encoder-t", SEQUENCE_ENCODER, tiny_sequence_encoder())
    histories = [history(length, length) for length in (1, 7, 200)]
    together = await runtime.infer("sequence_encoder-t", SEQUENCE_ENCODER, sequence_inputs(histories), timeout_s=30)
    for row, one in enumerate(histories):
        alone = await local.infer("sequence_encoder-t", SEQUENCE_ENCODER, sequence_inputs([one]), timeout_s=30)
        np.testing.assert_allclose(together["vector"][row], alone["vector"][0], atol=1e-4)


async def test_a_loaded_ranker_scores_every_row(runtime: Runtime) -> None:
    """The scores are the model's, one a row, in order, for one row and for many."""
    await runtime.load("ranker-sum", RANKER, linear_ranker())
    for rows in (1, 7, 500):
        given = features(rows)
        outputs = await runtime.infer("ranker-sum", RANKER, given, timeout_s=30)
        assert outputs["scores"].shape == (rows,)
        assert outputs["scores"].dtype == np.float32
        wanted = given["features"].astype(np.float64) @ np.arange(FEATURES)
        np.testing.assert_allclose(outputs["scores"], wanted, atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(outputs["probability"], 1 / (1 + np.exp(-wanted)), atol=1e-4)


async def test_the_text_encoder_answers_unit_vectors(runtime: Runtime, encoder: BuiltEncoder) -> None:
    """Each text gets a vector of length one, from a model file given by path."""
    await runtime.load(TEXT_ENCODER.name, TEXT_ENCODER, encoder.onnx)
    outputs = await runtime.infer(TEXT_ENCODER.name, TEXT_ENCODER, tokens(5, 12), timeout_s=30)
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), np.ones(5), atol=1e-5)


async def test_runtimes_agree(local: Runtime, triton: Runtime, encoder: BuiltEncoder) -> None:
    """Both runtimes give the same vectors and scores, within 1e-3."""
    for runtime in (local, triton):
        await runtime.load(TEXT_ENCODER.name, TEXT_ENCODER, encoder.onnx)
        await runtime.load("ranker-agree", RANKER, linear_ranker(0.1))
    for name, spec, given in (
        (TEXT_ENCODER.name, TEXT_ENCODER, tokens(9, 40, seed=3)),
        ("ranker-agree", RANKER, features(200, seed=3)),
    ):
        ours, theirs = [await runtime.infer(name, spec, given, timeout_s=30) for runtime in (local, triton)]
        for output in spec.outputs:
            assert np.abs(ours[output.name] - theirs[output.name]).max() <= 1e-3
            assert np.array_equal(np.argsort(ours[output.name], axis=0), np.argsort(theirs[output.name], axis=0)) or spec is TEXT_ENCODER


async def test_concurrent_calls_keep_their_own_answers(runtime: Runtime) -> None:
    """Calls of different sizes at once each get the scores of their own rows."""
    await runtime.load("ranker-many", RANKER, linear_ranker())
    given = [features(rows, seed=rows) for rows in range(1, 40)]
    answers = await asyncio.gather(*(runtime.infer("ranker-many", RANKER, each, timeout_s=60) for each in given))
    for each, answer in zip(given, answers, strict=True):
        np.testing.assert_allclose(answer["scores"], each["features"] @ np.arange(FEATURES, dtype=np.float32), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        {"features": np.full((2, FEATURES), np.nan, np.float32)},
        {"features": np.full((2, FEATURES), np.inf, np.float32)},
        {"features": np.ones((2, FEATURES - 1), np.float32)},
        {"features": np.ones((0, FEATURES), np.float32)},
        {"features": np.ones(FEATURES, np.float32)},
        {"features": np.ones((2, FEATURES), np.float64)},
        {"feature": np.ones((2, FEATURES), np.float32)},
        {},
    ],
    ids=["nan", "infinite", "narrow", "no rows", "flat", "float64", "other name", "nothing"],
)
async def test_wrong_inputs_are_refused(runtime: Runtime, given: dict[str, np.ndarray]) -> None:
    """NaN, wrong shapes, types and names are the caller's mistake, and the error names the tensor or the model."""
    await runtime.load("ranker-strict", RANKER, linear_ranker())
    with pytest.raises(InvalidArgumentError, match="ranker"):
        await runtime.infer("ranker-strict", RANKER, given, timeout_s=30)


async def test_rows_of_different_counts_are_refused(runtime: Runtime, encoder: BuiltEncoder) -> None:
    """Token ids and mask must be of the same texts."""
    await runtime.load(TEXT_ENCODER.name, TEXT_ENCODER, encoder.onnx)
    given = {"input_ids": np.ones((2, 4), np.int64), "attention_mask": np.ones((3, 4), np.int64)}
    with pytest.raises(InvalidArgumentError, match="rows"):
        await runtime.infer(TEXT_ENCODER.name, TEXT_ENCODER, given, timeout_s=30)


async def test_an_answer_that_is_not_finite_is_refused(runtime: Runtime) -> None:
    """A model with damaged weights fails loudly: NaN never reaches a list."""
    await runtime.load("ranker-nan", RANKER, linear_ranker(bias=float("nan")))
    with pytest.raises(CorruptDataError, match="not finite"):
        await runtime.infer("ranker-nan", RANKER, features(3), timeout_s=30)


async def test_an_unknown_model_is_not_found(runtime: Runtime) -> None:
    """A model nobody loaded is NotFoundError."""
    with pytest.raises(NotFoundError):
        await runtime.infer("ranker-never", RANKER, features(1), timeout_s=30)


async def test_an_unloaded_model_is_not_found(runtime: Runtime) -> None:
    """After unload the name answers no more; unloading it again, or a name never loaded, is no error."""
    await runtime.load("ranker-gone", RANKER, linear_ranker())
    await runtime.unload("ranker-gone")
    await runtime.unload("ranker-gone")
    await runtime.unload("ranker-never")
    with pytest.raises(NotFoundError):
        await runtime.infer("ranker-gone", RANKER, features(1), timeout_s=30)


async def test_loading_a_name_again_replaces_the_model(runtime: Runtime) -> None:
    """The second file answers; calls on the way during the change all succeed."""
    await runtime.load("ranker-new", RANKER, linear_ranker(1.0))
    given = features(4)
    busy = asyncio.gather(*(runtime.infer("ranker-new", RANKER, given, timeout_s=60) for _ in range(20)))
    await runtime.load("ranker-new", RANKER, linear_ranker(2.0))
    await busy
    outputs = await runtime.infer("ranker-new", RANKER, given, timeout_s=30)
    np.testing.assert_allclose(outputs["scores"], 2 * given["features"] @ np.arange(FEATURES, dtype=np.float32), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "onnx",
    [b"", b"not a model", linear_ranker()[:200], linear_ranker(output="points")],
    ids=["empty", "noise", "cut short", "other tensors"],
)
async def test_a_file_that_is_no_ranker_is_refused(runtime: Runtime, onnx: bytes) -> None:
    """Loading says that the file is corrupt, and a model of that name that served before still serves."""
    await runtime.load("ranker-kept", RANKER, linear_ranker())
    with pytest.raises(CorruptDataError):
        await runtime.load("ranker-kept", RANKER, onnx)
    outputs = await runtime.infer("ranker-kept", RANKER, features(2), timeout_s=30)
    assert outputs["scores"].shape == (2,)


async def test_a_call_past_its_time_ends(runtime: Runtime) -> None:
    """A model that takes longer than the caller waits is given up, and the runtime serves the next call."""
    await runtime.load("ranker-slow", RANKER, linear_ranker(deep=60))
    await runtime.load("ranker-fast", RANKER, linear_ranker())
    with pytest.raises(DeadlineExceededError):
        await runtime.infer("ranker-slow", RANKER, features(1), timeout_s=0.05)
    outputs = await runtime.infer("ranker-fast", RANKER, features(2), timeout_s=120)
    assert outputs["scores"].shape == (2,)
    await runtime.unload("ranker-slow")


async def test_ready_says_whether_the_runtime_answers(runtime: Runtime) -> None:
    """A running runtime is ready."""
    assert await runtime.ready()


@pytest.mark.parametrize("kind", ["local", "triton"])
async def test_a_closed_runtime_is_unavailable(kind: str, parts_with_triton: Parts) -> None:
    """After close every call is refused, and ready is false."""
    closed: Runtime = (
        LocalRuntime(threads=1) if kind == "local" else TritonRuntime(parts_with_triton.triton_url, model_repository=REPOSITORY)
    )
    await closed.load("ranker-closed", RANKER, linear_ranker())
    await closed.close()
    assert not await closed.ready()
    with pytest.raises(AisleError):
        await closed.infer("ranker-closed", RANKER, features(1), timeout_s=5)


async def test_a_triton_nobody_runs_is_unavailable() -> None:
    """With nothing listening, calls fail as UnavailableError at once instead of hanging."""
    runtime = TritonRuntime("127.0.0.1:9", model_repository=REPOSITORY)
    assert not await runtime.ready()
    with pytest.raises(UnavailableError):
        await runtime.load("ranker-nowhere", RANKER, linear_ranker())
    await runtime.close()
