"""Puts runtimes, router, encoder and ranker together from plain values."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.errors import InvalidFieldError
from server.inference.contract import TEXT_ENCODER, Runtime
from server.inference.encoder import BuiltEncoder, read_encoder
from server.inference.local import LocalRuntime
from server.inference.rank import Ranker
from server.inference.router import Router
from server.inference.sequence import SequenceEncoder
from server.inference.text import TextEncoder, read_tokenizer
from server.inference.triton import TritonRuntime

_REMOTE_CALLS = 4
"""Calls kept under way to a Triton elsewhere, beside this machine's own. One on this machine shares its cores: none beside them."""


@dataclass(frozen=True, slots=True)
class Inference:
    """Everything that asks models."""

    encoder: TextEncoder
    ranker: Ranker
    sequences: SequenceEncoder
    router: Router


@asynccontextmanager
async def open_inference(
    *, triton_url: str, encoder: BuiltEncoder, model_repository: Path, threads: int, runtime: Literal["auto", "triton", "local"] = "auto"
) -> AsyncIterator[Inference]:
    """Yields the encoder and the ranker over the runtimes that `runtime` allows.

    Args:
        triton_url: HOST:PORT of Triton's gRPC. Empty: there is none, and `auto` means `local`. It need not answer yet.
        encoder: From `training.text_encoder.build_text_encoder`, or `read_encoder`. Its checksums are verified here.
        model_repository: The folder whose `config.pbtxt` files say how models are loaded into Triton.
        threads: Batches this process runs at once.
        runtime: `auto` uses both and goes on with one when the other fails.

    Raises:
        InvalidFieldError: `runtime` is `triton` and there is no URL.
        CorruptDataError: The encoder's files are damaged.
        UnavailableError: `runtime` is `triton` and it does not answer.
    """
    if runtime == "triton" and not triton_url:
        raise InvalidFieldError("AISLE_RUNTIME", "is triton, but no Triton runs; set AISLE_TRITON_URL, or AISLE_RUNTIME=auto")
    read_encoder(encoder.onnx.parent)
    tokenizer = read_tokenizer(encoder.tokenizer)
    runtimes: list[tuple[Runtime, int]] = []
    workers = threads
    if triton_url and runtime != "local":
        runtimes.append((TritonRuntime(triton_url, model_repository=model_repository), threads))
        if not triton_url.startswith(("127.", "localhost:", "[::1]:")):
            workers += _REMOTE_CALLS
    if runtime != "triton":
        runtimes.append((LocalRuntime(threads=threads), threads))
    async with AsyncExitStack() as stack:
        router = await stack.enter_async_context(Router(runtimes))
        await router.load(TEXT_ENCODER.name, TEXT_ENCODER, encoder.onnx)
        text = TextEncoder(router, encoder, tokenizer, workers=workers)
        stack.push_async_callback(text.close)
        yield Inference(text, Ranker(router), SequenceEncoder(router), router)
