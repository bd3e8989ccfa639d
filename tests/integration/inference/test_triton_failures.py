"""Triton killed or hung under load: every request is answered, and Triton is used again when it is back."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Self

import numpy as np
import psutil
import pytest

from server.embedded import running_parts
from server.inference import RANKER, TEXT_ENCODER, BuiltEncoder, Inference, TritonRuntime, open_inference
from tests.model_factories import FEATURES, linear_ranker, tiny_bert
from training.text_encoder import build_text_encoder

REPOSITORY = Path(__file__).parents[3] / "model_repository"
IN_FLIGHT = 16
CALL_S = 5.0
BACK_S = 60.0


@pytest.fixture(scope="module")
def encoder(short_dir: Path) -> BuiltEncoder:
    """A built encoder with random weights."""
    folder = short_dir / "failures"
    return build_text_encoder(tiny_bert(folder / "tiny"), folder / "cache", lambda _message, _done: None)


@pytest.fixture(scope="module")
async def triton_url(short_dir: Path, encoder: BuiltEncoder) -> AsyncIterator[str]:
    """A Triton of this module's own that serves the shipped repository."""
    async with running_parts(
        data_dir=short_dir / "failures" / "data",
        database=False,
        redis=False,
        triton=True,
        model_files={TEXT_ENCODER.name: encoder.onnx},
        model_repository=REPOSITORY,
    ) as parts:
        assert parts.triton_url, parts.notes
        yield parts.triton_url


@pytest.fixture(scope="module")
async def inference(triton_url: str, encoder: BuiltEncoder) -> AsyncIterator[Inference]:
    """Both runtimes, over that Triton."""
    async with open_inference(triton_url=triton_url, encoder=encoder, model_repository=REPOSITORY, threads=2) as opened:
        await opened.ranker.load("ranker-b", linear_ranker())
        yield opened


def tritonserver() -> psutil.Process:
    """This module's tritonserver: the child whose command names its data folder."""
    for child in psutil.Process().children(recursive=True):
        if child.name() == "tritonserver" and any("failures" in word for word in child.cmdline()):
            return child
    raise AssertionError("no tritonserver runs")


class Load:
    """Clients that ask without pause; every failure is kept."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self.answers: list[tuple[float, str]] = []
        self.failures: list[BaseException] = []
        self._stop = False

    async def __aenter__(self) -> Self:
        self._clients = [asyncio.create_task(self._client(number)) for number in range(IN_FLIGHT)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._clients)

    async def _client(self, number: int) -> None:
        features = np.full((3, FEATURES), number, np.float32)
        while not self._stop:
            deadline = time.monotonic() + CALL_S
            try:
                if number % 2:
                    result = await self._inference.encoder.embed([f"barn {number}"], deadline=deadline)
                    assert abs(float(np.linalg.norm(result.vectors[0])) - 1) < 1e-4
                    runtime = result.runtime
                else:
                    scores, _, runtime = await self._inference.ranker.score("ranker-b", features, deadline=deadline)
                    assert scores.tolist() == [number * sum(range(FEATURES))] * 3
            except BaseException as error:  # noqa: BLE001  # each is a finding
                self.failures.append(error)
            else:
                self.answers.append((time.monotonic(), runtime))
            await asyncio.sleep(0)

    async def until(self, since: float, wanted: str = "triton") -> None:
        """Waits for an answer of a runtime younger than `since`."""
        end = time.monotonic() + BACK_S
        while not any(at > since and runtime == wanted for at, runtime in reversed(self.answers)):
            assert time.monotonic() < end, f"{wanted} did not answer"
            await asyncio.sleep(0.05)


async def test_triton_serves_what_was_loaded(inference: Inference) -> None:
    """The shipped configuration serves the encoder from the repository and a ranker by the load API."""
    async with Load(inference) as load:
        await load.until(0.0)
    assert load.failures == []
    await ranker_is_back(inference)


async def test_killed_under_load_every_request_is_answered(inference: Inference) -> None:
    """SIGKILL of tritonserver loses no request; after its restart it has its rankers again and is used."""
    async with Load(inference) as load:
        await load.until(0.0)
        killed = tritonserver()
        killed.send_signal(signal.SIGKILL)
        died = time.monotonic()
        await load.until(died + 1.0)
    assert load.failures == []
    assert {runtime for _, runtime in load.answers} == {"triton", "local"}
    await ranker_is_back(inference)


async def test_stopped_under_load_every_request_is_answered(inference: Inference) -> None:
    """SIGSTOP of tritonserver, which leaves its connections open, loses no request; after SIGCONT it is used again."""
    async with Load(inference) as load:
        await load.until(0.0)
        stopped = tritonserver()
        stopped.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            await load.until(began + 0.5, "local")
            await asyncio.sleep(1.0)
            assert {runtime for at, runtime in load.answers if at > began + 0.5} == {"local"}
        finally:
            stopped.send_signal(signal.SIGCONT)
        await load.until(time.monotonic())
    assert load.failures == []


async def test_calls_given_up_at_any_moment_do_not_end_triton(triton_url: str) -> None:
    """Triton crashes now and then on a call that is cancelled while it finishes, so callers' giving up does not reach it."""
    before, random = tritonserver(), Random(0)
    runtime = TritonRuntime(triton_url, model_repository=REPOSITORY)
    await runtime.load("ranker-c", RANKER, linear_ranker())
    outcomes: Counter[str] = Counter()

    async def client() -> None:
        for _ in range(2000):
            try:
                async with asyncio.timeout(random.uniform(0, 0.02)):
                    await runtime.infer("ranker-c", RANKER, {"features": np.ones((50, FEATURES), np.float32)}, timeout_s=CALL_S)
            except TimeoutError:
                outcomes["given up"] += 1
            else:
                outcomes["answered"] += 1

    await asyncio.gather(*(client() for _ in range(8)))
    await runtime.unload("ranker-c")
    await runtime.close()
    assert outcomes["given up"] > 200
    assert outcomes["answered"] > 200
    assert tritonserver() == before


async def ranker_is_back(inference: Inference) -> None:
    """Waits until Triton itself scores the ranker that its restart lost."""
    end = time.monotonic() + BACK_S
    while time.monotonic() < end:
        scored = await inference.ranker.score("ranker-b", np.ones((1, FEATURES), np.float32), deadline=time.monotonic() + CALL_S)
        if scored.runtime == "triton":
            return
        await asyncio.sleep(0.1)
    raise AssertionError("Triton never scored again")
