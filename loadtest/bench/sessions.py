"""`python -m loadtest.bench.sessions`: other options of ONNX Runtime beside those that the server opens its sessions with.

Needs no server. Each choice has a process of its own with the text encoder and a ranker, so that its memory is its own, and all wait but
the one whose turn it is. In each round, shape by shape, every choice makes the same calls for some hundredths of a second, in an order
drawn anew; ratios are formed within a round, and a median is taken over rounds. The server's own options take part twice: what the
second differs by is chance. Texts are run as the server does, on a thread a core that share a session; a ranker on one.

Shapes: B rows of a batch, T tokens of its longest, F ranker features.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
from tokenizers import Tokenizer

from loadtest.bench.cases.embed import texts
from loadtest.bench.stand import ROOT
from loadtest.bench.table import write_between
from server.cli.models import build_with_progress
from server.domain.ranking import RANKER_FEATURES
from server.inference.batcher import Limits
from server.inference.contract import RANKER, TEXT_ENCODER, Tensors
from server.inference.local import session_options
from server.retrieval.fusion import FusionWeights
from training.learn import WIDTHS
from training.network import Inputs, Layers, LearnedRanker
from training.ranker import ranker_model

DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- sessions: begin -->", "<!-- sessions: end -->"
CORES = len(os.sched_getaffinity(0))
PAYS = 0.97
"""Processor time beside the server's options from which on another choice is worth having, in each half of the rounds."""
_BUCKETS = (16, 64, 128)
_ROWS = (1, 8, 16)
_CANDIDATES = (100, 600)
_MIXED = 60
"""Batches of all lengths that each choice has run before it is measured: an arena is as large as they make it."""
_VARIANTS = 24
"""Different batches of a shape: what is kept for each length and number of rows has to gain by those that come again."""


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """One kind of call."""

    tokens: int
    """Most tokens of a text, which has more than half of them; 0: a ranker's."""
    rows: int
    """B; most candidates for a ranker, which is given more than half of them."""

    def __str__(self) -> str:
        """Returns it as a column's head."""
        return f"{self.rows} x {self.tokens}" if self.tokens else f"ranker {self.rows}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Options that differ from the server's in one thing."""

    name: str
    change: Callable[[Any], object]
    callers: int = CORES
    """Threads that run texts at once."""


@dataclass(frozen=True, slots=True)
class Models:
    """What every choice opens."""

    encoder: Path
    ids: tuple[int, ...]
    """Tokens of texts, one after another: batches are cut from them."""
    ranker: bytes


@dataclass(frozen=True, slots=True)
class Spent:
    """What a call took, in seconds."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What the sessions of a process take, in MB: what it alone held once it had run everything, and most at any time."""

    held_mb: float
    peak_mb: float


Round = Mapping[tuple[str, Shape], Spent]


def _entry(key: str, value: str) -> Callable[[Any], object]:
    return lambda options: options.add_session_config_entry(f"session.{key}", value)


def _set(name: str, *, value: Any) -> Callable[[Any], object]:
    return lambda options: setattr(options, name, value)


def _arena_as_asked(options: Any) -> None:
    """Has the process's sessions share an arena that grows by what is asked for, not to twice what it had."""
    memory = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}))
    options.add_session_config_entry("session.use_env_allocators", "1")


def _on_all_cores(options: Any, *, spinning: bool = False) -> None:
    options.intra_op_num_threads = CORES
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))


SERVERS = Choice("the server's", lambda _: None)
CHOICES = (
    SERVERS,
    Choice("the same again", lambda _: None),
    Choice("no arena", _set("enable_cpu_mem_arena", value=False)),
    Choice("arena grows as asked", _arena_as_asked),
    Choice("weights outside the arena", _entry("use_device_allocator_for_initializers", "1")),
    Choice("weights not packed", _entry("disable_prepacking", "1")),
    Choice("memory patterns", _set("enable_mem_pattern", value=True)),
    Choice("extended optimizations", _set("graph_optimization_level", value=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)),
    Choice("denormals are zero", _entry("set_denormal_as_zero", "1")),
    Choice("one text call at a time", lambda _: None, callers=1),
    Choice("the same, on all cores", _on_all_cores, callers=1),
    Choice("the same, spinning", partial(_on_all_cores, spinning=True), callers=1),
)


def shapes(limits: Limits) -> list[Shape]:
    """Returns what is measured: batches of each size in each bucket, smaller where the batcher would not make them, and candidates."""
    found = {Shape(tokens, min(rows, limits.rows, limits.tokens // tokens)) for tokens in _BUCKETS for rows in _ROWS}
    return [*sorted(found), *(Shape(0, rows) for rows in _CANDIDATES)]


class _Worker:
    """The sessions of one choice, in a process that has no others."""

    def __init__(self, choice: Choice, models: Models) -> None:
        self._ids = np.array(models.ids, np.int64)
        self._process = psutil.Process()
        self._before = self._process.memory_full_info()
        onnxruntime.set_default_logger_severity(3)
        options = session_options()
        choice.change(options)
        self._sessions = {
            spec: onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            for spec, source in ((TEXT_ENCODER, str(models.encoder)), (RANKER, models.ranker))
        }
        self._callers = choice.callers
        self._threads = ThreadPoolExecutor(choice.callers)
        self._batches = cache(self._made)
        limits, rng = Limits(), random.Random(0)  # noqa: S311  # the same for every choice
        for _ in range(_MIXED):
            tokens = rng.randint(4, 2 * _BUCKETS[-1])
            self._run(Shape(tokens, rng.randint(1, min(limits.rows, limits.tokens // tokens))), 1, 0)

    def spent(self, shape: Shape, count: int) -> Spent:
        """Returns what each of `count` calls took, made by the choice's callers at once."""
        callers = self._callers if shape.tokens else 1
        wall, cpu = time.perf_counter(), time.process_time()
        if callers == 1:
            self._run(shape, count, 0)
        else:
            list(self._threads.map(lambda caller: self._run(shape, count // callers, caller), range(callers)))
        return Spent((time.process_time() - cpu) / count, (time.perf_counter() - wall) / count)

    def memory(self) -> Memory:
        """Returns what the sessions have taken."""
        status = Path("/proc/self/status").read_text()
        peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
        return Memory((self._process.memory_full_info().uss - self._before.uss) / 1e6, (peak - self._before.rss) / 1e6)

    def _run(self, shape: Shape, count: int, first: int) -> None:
        spec = TEXT_ENCODER if shape.tokens else RANKER
        session, names, batches = self._sessions[spec], [output.name for output in spec.outputs], self._batches(shape)
        for number in range(first, first + count):
            session.run(names, batches[number % _VARIANTS], onnxruntime.RunOptions())

    def _made(self, shape: Shape) -> list[Tensors]:
        """Returns batches as the server makes them: texts of one bucket's lengths, padded to the longest, and any number of candidates."""
        rng = np.random.default_rng([shape.tokens, shape.rows])
        batches: list[Tensors] = []
        for _ in range(_VARIANTS):
            if not shape.tokens:
                rows = int(rng.integers(shape.rows // 2 + 1, shape.rows + 1))
                batches.append({"features": rng.random((rows, len(RANKER_FEATURES)), np.float32)})  # (B, F)
                continue
            lengths = rng.integers(shape.tokens // 2 + 1, shape.tokens + 1, shape.rows)
            places = np.arange(lengths.max())
            mask = (places < lengths[:, None]).astype(np.int64)  # (B, T)
            starts = rng.integers(0, len(self._ids) - shape.tokens, shape.rows)
            batches.append({"input_ids": mask * self._ids[starts[:, None] + places], "attention_mask": mask})
        return batches


@cache
def _worker(name: str, models: Models) -> _Worker:
    return _Worker(next(choice for choice in CHOICES if choice.name == name), models)


def _spent(name: str, models: Models, shape: Shape, count: int) -> Spent:
    return _worker(name, models).spent(shape, count)


def _memory(name: str, models: Models) -> Memory:
    return _worker(name, models).memory()


def measured(
    choices: Sequence[Choice], models: Models, wanted: Sequence[Shape], *, rounds: int, slot_s: float
) -> tuple[list[Round], dict[str, Memory]]:
    """Returns what calls took by choice and shape, one mapping a round, and what each choice's sessions hold at the end.

    Args:
        choices: The server's among them.
        models: What they open.
        wanted: Shapes to measure.
        rounds: How often.
        slot_s: Processor time for one choice and shape in a round, on each core, in seconds.
    """
    with ExitStack() as stack:
        context = get_context("spawn")
        processes = {one.name: stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for one in choices}

        def ask(name: str, shape: Shape, count: int) -> Spent:
            return processes[name].submit(_spent, name, models, shape, count).result()

        counts: dict[Shape, int] = {}
        for shape in wanted:
            ask(SERVERS.name, shape, CORES)
            counts[shape] = CORES * max(1, round(slot_s / ask(SERVERS.name, shape, CORES).cpu_s))
            for choice in choices:
                ask(choice.name, shape, CORES)
        found: list[Round] = []
        for _ in range(rounds):
            turns = ((shape, choice) for shape in wanted for choice in random.sample(choices, len(choices)))
            found.append({(choice.name, shape): ask(choice.name, shape, counts[shape]) for shape, choice in turns})
        return found, {name: one.submit(_memory, name, models).result() for name, one in processes.items()}


def ratio(name: str, wanted: Sequence[Shape], rounds: Sequence[Round], figure: str) -> float:
    """Returns a choice's figure over the server's: the geometric mean over shapes within a round, the median over rounds."""

    def within(found: Round) -> float:
        logs = [math.log(getattr(found[name, one], figure) / getattr(found[SERVERS.name, one], figure)) for one in wanted]
        return math.exp(statistics.mean(logs))

    return statistics.median(within(found) for found in rounds)


def halves(name: str, wanted: Sequence[Shape], rounds: Sequence[Round], figure: str) -> tuple[float, float]:
    """Returns `ratio` for the first and the second half of the rounds, of which there are at least two."""
    middle = len(rounds) // 2
    return ratio(name, wanted, rounds[:middle], figure), ratio(name, wanted, rounds[middle:], figure)


def paying(names: Sequence[str], wanted: Sequence[Shape], rounds: Sequence[Round]) -> list[str]:
    """Returns the choices that cost at most `PAYS` of the server's processor time in both halves of the rounds, over all these shapes."""
    return [name for name in names if max(halves(name, wanted, rounds, "cpu_s")) <= PAYS]


def _kinds(wanted: Sequence[Shape]) -> Iterator[tuple[str, list[Shape]]]:
    """Yields texts' and rankers' shapes, where there are some."""
    for name, kind in (("texts", [one for one in wanted if one.tokens]), ("ranker", [one for one in wanted if not one.tokens])):
        if kind:
            yield name, kind


def table(
    title: str, names: Sequence[str], wanted: Sequence[Shape], rounds: Sequence[Round], figure: str, memory: Mapping[str, Memory]
) -> str:
    """Returns the server's figures in microseconds and the others over them, by shape, and over shapes by half of the rounds.

    Memory has a column where there is some.
    """
    kinds = list(_kinds(wanted))
    head = [title, *(["MB held, most"] if memory else []), *map(str, wanted), *(f"{name}, by half" for name, _ in kinds)]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name in names:
        cells = [name, *([f"{memory[name].held_mb:.0f}, {memory[name].peak_mb:.0f}"] if memory else [])]
        if name == SERVERS.name:
            cells += [f"{1e6 * statistics.median(getattr(found[name, one], figure) for found in rounds):,.0f} us" for one in wanted]
            cells += [""] * len(kinds)
        else:
            cells += [f"{ratio(name, [one], rounds, figure):.2f}" for one in wanted]
            cells += [", ".join(f"{half:.3f}" for half in halves(name, kind, rounds, figure)) for _, kind in kinds]
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def verdict(names: Sequence[str], wanted: Sequence[Shape], rounds: Sequence[Round]) -> str:
    """Returns which choices cost less processor time, in words."""
    said = []
    for kind, some in _kinds(wanted):
        better = paying([name for name in names if name != SERVERS.name], some, rounds)
        said.append(f"{kind}: {', '.join(better) or 'none'}")
    return f"At most {PAYS:g} of the server's processor time in both halves: {'; '.join(said)}."


def random_ranker() -> bytes:
    """Returns a ranker as large as training makes it, with weights drawn at random."""
    weights = FusionWeights(sparse=1.0, regression=0.5, collaborative=0.5)
    start = Layers.start(WIDTHS, 1.0, seed=0)
    drawn = np.random.default_rng(0).normal(0, 1, len(start.packed()))
    features = np.random.default_rng(1).random((200, len(RANKER_FEATURES)), np.float32)
    ranker = LearnedRanker(weights, (Inputs.fitted(weights, features), start.unpacked(np.maximum(drawn, start.least()))))
    return bytes(ranker_model(ranker).SerializeToString())


def main() -> None:
    """Measures, prints the tables and writes them into the document."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.sessions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="how often everything is measured (default: %(default)s)")
    parser.add_argument("--slot-ms", type=float, default=40, help="processor time of one turn on a core (default: %(default)s)")
    parser.add_argument("--beside", default="", metavar="TEXT", help="what else ran meanwhile, to be told with the figures")
    parser.add_argument("--print-only", action="store_true", help="leave the document as it is")
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.slot_ms <= 0:
        parser.error("--rounds must be at least 2, as its halves are compared, and --slot-ms above 0")
    encoder = build_with_progress(None, Path(os.environ.get("AISLE_CACHE_DIR", "~/.cache/aisle")).expanduser())
    tokenizer = Tokenizer.from_file(str(encoder.tokenizer))
    ids = tuple(token for one in tokenizer.encode_batch(texts(200, 0)) for token in one.ids)
    wanted = shapes(Limits())
    models = Models(encoder.onnx, ids, random_ranker())
    rounds, memory = measured(CHOICES, models, wanted, rounds=arguments.rounds, slot_s=arguments.slot_ms / 1000)
    about = f"{datetime.now(UTC):%Y-%m-%d}, ONNX Runtime {onnxruntime.__version__}, {CORES} cores, load average {os.getloadavg()[0]:.1f}"
    about += f" at the end, {arguments.rounds} rounds{f' ({arguments.beside})' if arguments.beside else ''}."
    names = [one.name for one in CHOICES]
    tables = [
        table("processor time", names, wanted, rounds, "cpu_s", memory),
        table("clock time", names, wanted, rounds, "wall_s", {}),
    ]
    text = "\n\n".join([about, *tables, verdict(names, wanted, rounds)])
    print(text)
    if not arguments.print_only:
        write_between(DOCUMENT, BEGIN, END, f"{text}\n")
        print(f"written: {DOCUMENT}")


if __name__ == "__main__":
    main()
