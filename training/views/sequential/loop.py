"""Epochs over the windows: averaged weights, early stopping, checkpoints that an interrupted run resumes from.

Shapes: N items.
"""

from __future__ import annotations

import copy
import math
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data import Progress
from training.views.sequential.batches import Batch, Windows, batches, draw_candidates
from training.views.sequential.mean import RunningMean
from training.views.sequential.net import SequenceNet, batch_loss
from training.views.sequential.team import Team, Validate

_WARM_UP_STEPS = 100
_CLIP = 5.0
_SPARSE_FROM = 100_000
"""Items from which the optimizer touches only the rows of a step: all of them would cost more than the step."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The same for every data set."""

    rate: float = 2e-3
    decay: float = 0.01
    tokens: int = 2048
    """Most events of a batch, padding included."""
    steps: int = 32
    """Least steps of an epoch: little data is cut into smaller batches, down to `least_tokens`, and then seen more than once."""
    least_tokens: int = 256
    sample: int = 512
    """Negatives that a batch shares, beside its targets."""
    averaging: float = 0.995
    """Weight of the running mean of the weights at a step; the mean is what is validated and kept."""
    most_epochs: int = 40
    most_steps: int = 900
    """Steps after which no further epoch begins: much data teaches enough in few epochs, and time has a bound."""
    patience: int = 150
    """Steps without a better validation after which training stops, at the end of an epoch: short epochs of little data tell less each."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the training curve."""

    epoch: int
    loss: float
    validation: float | None
    """NDCG@10 on held-out interactions; None where nothing is held out."""
    seconds: float


@dataclass(slots=True)
class Outcome:
    """What training came to."""

    epochs: int
    """Epochs of the weights that are kept."""
    curve: list[Epoch] = field(default_factory=list)
    trouble: str = ""
    """What stopped training early, for people; empty if nothing did."""
    unsaved: str = ""
    """Why the last checkpoint could not be written, for people; empty if it was."""


class Trainer:
    """Trains one network. After each epoch everything needed to go on is on disk, if a place is given.

    Args:
        net: Its weights are changed in place; in the end they are the kept mean.
        windows: What to learn from.
        recipe: How.
        checkpoint: File of the state; None keeps none. A file of another run, whose `key` differs, is ignored.
        key: Names data and recipe.
        progress: Told about each batch.
        team: Trainers that take each step together; None is this one alone.
    """

    def __init__(
        self,
        net: SequenceNet,
        windows: Windows,
        recipe: Recipe,
        *,
        checkpoint: Path | None,
        key: str,
        progress: Progress,
        team: Team | None = None,
    ) -> None:
        self._net, self._windows, self._recipe = net, windows, recipe
        self._checkpoint, self._key, self._progress = checkpoint, key, progress
        self._team = team or Team()
        self._counts = windows.target_counts
        size = int(windows.lengths.sum())
        self._tokens = min(max(size // recipe.steps, recipe.least_tokens), recipe.tokens)
        self._passes = max(1, round(recipe.steps * self._tokens / max(size, 1)))
        self._steps = max(1, self._passes * size // self._tokens)
        self._sparse = net.ids.num_embeddings >= _SPARSE_FROM
        self._mean = RunningMean(net, sparse=self._sparse)
        # Half precision is far finer than what training settles, and a large table in full would be a fifth of all memory.
        self._best = {
            name: value.half() if self._sparse and name == "ids.weight" else value.clone() for name, value in self._mean.values.items()
        }
        self._best_value = -math.inf
        self._step = 0
        self._optimizers = _optimizers(net, recipe)
        self._outcome = Outcome(0)
        self._generator = np.random.default_rng(recipe.seed + self._team.rank)

    def run(self, *, epochs: int, validate: Validate | None) -> Outcome:
        """Trains for `epochs`, or until validation stops getting better, and returns what came of it.

        A loss that is no number ends training: the last good weights are kept, and `Outcome.trouble` says so.
        """
        with _repeatable():
            return self._run(epochs, validate)

    def _run(self, epochs: int, validate: Validate | None) -> Outcome:
        self._resume()
        if validate is not None:  # else somebody chose the number already
            epochs = min(epochs, max(1, self._recipe.most_steps // self._steps))
        curve = self._outcome.curve
        while len(curve) < epochs and not self._outcome.trouble:
            if validate is not None and (len(curve) - self._outcome.epochs) * self._steps >= self._recipe.patience:
                break
            started = time.monotonic()
            loss = self._epoch(len(curve) + 1, epochs)
            if not (math.isfinite(loss) and all(_finite(value) for value in self._mean.values.values())):
                epoch = self._outcome.epochs
                kept = f"training stopped and kept the weights of epoch {epoch}" if epoch else "nothing was learned"
                self._outcome.trouble = f"the loss was no number in epoch {len(curve) + 1}: {kept}"
                break
            self._judge(validate, loss, time.monotonic() - started)
            self._save()
        with torch.no_grad():
            for name, value in self._net.named_parameters():
                value.copy_(self._best[name])
        return self._outcome

    def _epoch(self, number: int, epochs: int) -> float:
        """Returns the mean loss over targets; NaN if a step's loss was no number."""
        self._net.train()
        torch.manual_seed(self._recipe.seed + 1000 * number + 1_000_003 * self._team.rank)
        total, learned = 0.0, 0
        size, done = max(self._passes * int(self._windows.lengths.sum()), 1), 0
        name = f"sequential view{', without checkpoints' if self._outcome.unsaved else ''}: epoch {number} of at most {epochs}"
        for batch, targets in self._team.steps(self._batches()):
            done += int((batch.actions > 0).sum())
            loss = self._step_on(batch, targets)
            if not math.isfinite(loss):
                return math.nan
            total, learned = total + loss * targets, learned + targets
            self._progress(f"{name}, loss {total / max(learned, 1):.3f}", done / size)
        return total / max(learned, 1)

    def _batches(self) -> Iterator[Batch]:
        for _ in range(self._passes):
            yield from batches(self._windows, tokens=self._tokens, generator=self._generator)

    def _step_on(self, batch: Batch, targets: int) -> float:
        recipe = self._recipe
        self._step += 1
        rate = recipe.rate * min(1.0, self._step / _WARM_UP_STEPS)
        wanted = np.unique(batch.targets[batch.targets >= 0])
        candidates = draw_candidates(wanted, self._counts, sample=recipe.sample, generator=self._generator)
        device = self._net.ids.weight.device
        parts = [torch.from_numpy(part).to(device) for part in (batch.items, batch.actions, batch.gaps, batch.targets)]
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate
        with _autocast(device):
            loss = batch_loss(
                self._net,
                (parts[0], parts[1], parts[2], parts[3]),
                torch.from_numpy(candidates.items).to(device),
                torch.from_numpy(candidates.log_odds).to(device),
            )
        value = self._team.agreed(loss.item(), targets)
        if math.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships no types for it
            self._team.share_gradients(self._net, targets)
            touched = self._touched()
            self._mean.before_step(touched)
            torch.nn.utils.clip_grad_norm_([p for p in self._net.parameters() if p.grad is not None and not p.grad.is_sparse], _CLIP)
            for optimizer in self._optimizers:
                optimizer.step()
            self._mean.after_step(min(recipe.averaging, (1 + self._step) / (10 + self._step)), touched)
        return value

    def _touched(self) -> Tensor:
        """Returns the rows of the item table that have a gradient, if only they will change; else none."""
        table = self._net.ids.weight
        if not self._sparse or table.grad is None:
            return torch.zeros(0, dtype=torch.int64, device=table.device)
        table.grad = table.grad.coalesce()
        return table.grad.indices()[0]

    def _judge(self, validate: Validate | None, loss: float, seconds: float) -> None:
        """Validates the mean weights and keeps them if they are the best so far."""
        outcome, number = self._outcome, len(self._outcome.curve) + 1
        self._mean.catch_up()
        found = None
        if validate is not None:
            with self._averaged():
                found = validate(self._net)
        outcome.curve.append(Epoch(number, loss, found, seconds))
        if found is None or found > self._best_value:
            self._best_value = found if found is not None else self._best_value
            outcome.epochs = number
            for name, value in self._mean.values.items():
                self._best[name].copy_(value)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The network holds the mean weights inside."""
        self._mean.swap()
        self._net.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._mean.swap()

    def _save(self) -> None:
        """Writes all that it takes to go on. A folder that is full or closed costs the chance to go on, not the training."""
        if self._checkpoint is None:
            return
        state = {
            "key": self._key,
            "net": self._net.state_dict(),
            "mean": self._mean.values,
            "best": self._best,
            "best_value": self._best_value,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "step": self._step,
            "generator": self._generator.bit_generator.state,
            "outcome": asdict(self._outcome),
        }
        unfinished = self._checkpoint.with_suffix(".unfinished")
        try:
            self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, unfinished)
            unfinished.replace(self._checkpoint)
        except (OSError, RuntimeError) as error:  # torch calls a full disk a RuntimeError
            reason = str(error).partition("\n")[0]
            mend = "free space there, or set AISLE_CACHE_DIR to a folder that can be written"
            self._outcome.unsaved = f"no checkpoint could be written to {self._checkpoint.parent} ({reason}); {mend}"
            with suppress(OSError):
                unfinished.unlink()
        else:
            self._outcome.unsaved = ""

    def _resume(self) -> None:
        state = _read(self._checkpoint, self._key)
        if state is None:
            return
        self._net.load_state_dict(state["net"])
        for kept, saved in ((self._mean.values, state["mean"]), (self._best, state["best"])):
            for name, value in kept.items():
                value.copy_(saved[name])
        self._best_value = state["best_value"]
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._step = state["step"]
        self._generator.bit_generator.state = copy.deepcopy(state["generator"])
        outcome = state["outcome"]
        self._outcome = Outcome(outcome["epochs"], [Epoch(**line) for line in outcome["curve"]], outcome["trouble"])


def _read(checkpoint: Path | None, key: str) -> dict[str, Any] | None:
    """Returns the state of an interrupted run of this key; None if there is none that can be read."""
    if checkpoint is None:
        return None
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            if archive.testzip() is not None:  # torch.load looks at no checksum and takes flipped bits for weights
                return None
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True, mmap=True)
    except FileNotFoundError:
        return None
    except Exception:  # noqa: BLE001  # a damaged file, whatever torch raises, costs the epochs it held and nothing else
        return None
    return state if state.get("key") == key else None


def _finite(value: Tensor) -> bool:
    """Returns whether all numbers are finite, without a copy: `isfinite` of a large table would make two, and the most memory of all."""
    low, high = value.aminmax()  # hand on what is no number
    return math.isfinite(low.item()) and math.isfinite(high.item())


@contextmanager
def _repeatable() -> Iterator[None]:
    """Makes sums over rows that several threads add to the same each time; otherwise they depend on which thread comes first."""
    before, warning = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # noqa: FBT003  # torch names no keyword
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warning)


def _optimizers(net: SequenceNet, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Returns AdamW for the weights, without decay for norms and biases; apart from it, one for a large item table."""
    table = net.ids.weight
    sparse = len(table) >= _SPARSE_FROM
    others: list[Tensor] = [value for value in net.parameters() if value is not table or not sparse]
    groups = [
        {"params": [value for value in others if value.dim() > 1], "weight_decay": recipe.decay},
        {"params": [value for value in others if value.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)]
    if sparse:
        net.ids.sparse = True
        optimizers.append(torch.optim.SparseAdam([table], lr=recipe.rate, betas=(0.9, 0.98)))
    return optimizers


def _autocast(device: torch.device) -> torch.autocast:
    """Returns the context of matrix products in bfloat16 where the processor has them: three times as fast, alike in quality."""
    fast = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001  # has no public name
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(fast))
