"""From interactions to the sequential view: item vectors, and an encoder of histories as an int8 ONNX model.

Shapes: N items, D = 384 dimensions, W width of the network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from server.domain.ranking import VIEW_DIMENSIONS
from server.inference.sequence import NAMED_ACTIONS, action_rows, known_actions, sequence_inputs
from server.retrieval.sequence import SequenceSpace
from training.cases import draw_cases
from training.data import Interactions, Progress
from training.memory import give_back
from training.metrics import target_ranks
from training.quantize import channel_maxima, quantize_rows
from training.views.sequential.batches import Windows, make_windows
from training.views.sequential.graph import sequence_graph
from training.views.sequential.scores import HistoryEncoder, encoded_history
from training.views.sequential.team import Team

if TYPE_CHECKING:
    from training.views.sequential.loop import Epoch, Recipe
    from training.views.sequential.net import SequenceNet, Shape

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

LEAST_EVENTS = 200
"""Targets below which a transformer learns nothing that counting does not know."""

_SHAPE = (3, 128, 2, 2)
_DROPOUT = 0.4
_UNKNOWN = 0.05
_CASES = 2000
_BLOCK = 128
_CELLS = 16_000_000
"""Scores held at once, 64 MB."""
_DEPTH = 10
_EXPORTED = 65_536
_PROBES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """The trained view."""

    space: SequenceSpace
    onnx: bytes
    """The int8 encoder, of kind `sequence_encoder`."""
    exact: bytes
    """Its float32 twin, for comparison; not part of a bundle."""
    epochs: int
    curve: tuple[Epoch, ...] = field(default=())
    trouble: str = ""
    """What went wrong on the way, for people; empty if nothing did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceTask:
    """What to learn from, and where an interrupted run is kept."""

    event_types: tuple[str, ...]
    """Behind the rows of `Interactions.kinds`."""
    texts: FloatArray | None
    """float32, (N, D)."""
    checkpoints: Path | None
    progress: Progress


def missing_reason(interactions: Interactions, held_out: Interactions | None = None) -> str:
    """Returns why no sequential view can be trained, as a sentence; empty if it can. Both arguments as in `fit_sequential`."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed: the sequential view is off; pip install 'aisle[training]' turns it on"
    wanted = _wanted(interactions)
    targets = int(make_windows(wanted, np.zeros_like(wanted.kinds)).target_counts.sum())
    if targets < LEAST_EVENTS:
        return f"{targets} events follow another of the same user, {LEAST_EVENTS} are needed: the sequential view is off"
    if held_out is not None and not draw_cases(wanted, held_out, 1, seed=0):
        return "nothing new of a known user is held out, which tells when to stop: the sequential view is off"
    return ""


def _wanted(interactions: Interactions) -> Interactions:
    return interactions if (interactions.weights > 0).all() else interactions.select(interactions.weights > 0)


def fit_sequential(
    interactions: Interactions,
    task: SequenceTask,
    *,
    held_out: Interactions | None = None,
    epochs: int | None = None,
    team: Team | None = None,
) -> Sequential | None:
    """Returns the view fitted on these interactions, or None where there is too little to learn from or no PyTorch.

    In a team only the first member returns it, the others None.

    Args:
        interactions: Those whose weight is 0 are left out.
        task: See there.
        held_out: What came next, for early stopping.
        epochs: How many; None takes the recipe's most, and stops early if `held_out` says so.
        team: Trainers that take each step together, all called with the same arguments; None is this one alone.
    """
    if missing_reason(interactions, held_out):
        return None
    wanted = _wanted(interactions)
    from training.views.sequential.loop import Recipe, Trainer
    from training.views.sequential.net import SequenceNet, Shape, best_device, text_tensor

    team = team or Team()
    recipe = team.recipe(Recipe())
    named = _frequent_types(wanted, task.event_types)
    own = team.own(wanted)
    windows = make_windows(own, action_rows(task.event_types, known_actions(named))[own.kinds])
    shape = Shape(*_SHAPE)
    device = best_device()
    net = SequenceNet(shape, wanted.item_count, text_tensor(task.texts), dropout=_DROPOUT, unknown=_UNKNOWN, seed=recipe.seed).to(device)
    key = _key(windows, task.texts, recipe, shape, judged=held_out is not None)
    checkpoint = task.checkpoints / f"sequential-{key[:16]}.pt" if task.checkpoints else None
    trainer = Trainer(net, windows, recipe, checkpoint=checkpoint, key=key, progress=task.progress, team=team)
    judge = _judge(wanted, held_out, named, task) if held_out is not None else None
    outcome = trainer.run(epochs=epochs or recipe.most_epochs, validate=team.judged(judge))
    if team.rank:
        return None
    del trainer, judge  # and with them the optimizers' tables, before more memory is asked for
    space = export_space(net, named)
    exact = export_graph(net)
    served = quantize_rows(exact, channel_maxima(exact, _probes(wanted, space, task.event_types)))
    if checkpoint is not None:
        with suppress(OSError):
            checkpoint.unlink(missing_ok=True)
    give_back()
    return Sequential(
        space=space,
        onnx=served.SerializeToString(),
        exact=exact.SerializeToString(),
        epochs=outcome.epochs,
        curve=tuple(outcome.curve),
        trouble="; ".join(filter(None, (outcome.trouble, outcome.unsaved))),
    )


def export_space(net: SequenceNet, event_types: tuple[str, ...]) -> SequenceSpace:
    """Returns the items' side of a trained network, padded to D."""
    import torch

    def padded(value: FloatArray) -> FloatArray:
        if value.shape[-1] == VIEW_DIMENSIONS:
            return value
        wide = np.zeros((*value.shape[:-1], VIEW_DIMENSIONS), np.float32)
        wide[..., : value.shape[-1]] = value
        return wide

    net.eval()
    with torch.no_grad():
        items = _exported_items(net)
        stranger = net.stranger.float().cpu().numpy()
        project = net.project.weight.T.float().cpu().numpy() if net.project is not None else np.zeros((VIEW_DIMENSIONS, 1), np.float32)
    return SequenceSpace(padded(items), padded(stranger), padded(project), event_types)


def _exported_items(net: SequenceNet) -> FloatArray:
    """Returns the vectors of all items, (N, M * W): the network's own memory where it is on the CPU and items have no texts."""
    import torch

    if net.project is None:
        return np.asarray(net.ids.weight.detach().float().cpu().numpy(), np.float32)
    items = np.empty(tuple(net.ids.weight.shape), np.float32)
    for rows in torch.split(torch.arange(len(items), device=net.ids.weight.device), _EXPORTED):
        items[int(rows[0]) : int(rows[-1]) + 1] = net.item_vectors(rows).float().cpu().numpy()
    return items


def export_graph(net: SequenceNet) -> onnx.ModelProto:
    """Returns a trained network's transformer as a float32 graph."""
    weights = {name: value.detach().float().cpu().numpy() for name, value in net.state_dict().items() if name != "ids.weight"}
    return sequence_graph(weights, members=net.shape.members, layers=net.shape.layers, heads=net.shape.heads)


def _frequent_types(interactions: Interactions, event_types: Sequence[str]) -> tuple[str, ...]:
    """Returns the types that get a row of their own, the most frequent first, ties by name."""
    counts = np.bincount(interactions.kinds, minlength=len(event_types))
    order = sorted(range(len(event_types)), key=lambda row: (-int(counts[row]), event_types[row]))
    return tuple(event_types[row] for row in order[:NAMED_ACTIONS] if counts[row])


def _judge(fitted: Interactions, held_out: Interactions, named: tuple[str, ...], task: SequenceTask) -> Callable[[SequenceNet], float]:
    """Returns a function that gives a network's NDCG@10 on users' next items, all items ranked but those of the history."""
    cases = draw_cases(fitted, held_out, _CASES, seed=0)
    histories = [fitted.history(user) for user, _ in cases]
    masked = [fitted.items[fitted.starts[user] : fitted.starts[user + 1]] for user, _ in cases]
    targets = [np.array([item]) for _, item in cases]

    def ndcg(net: SequenceNet) -> float:
        space = export_space(net, named)
        users = HistoryEncoder(space, export_graph(net).SerializeToString(), task.event_types).encode(histories)  # (S, D)
        gains = []
        width = max(1, min(_BLOCK, _CELLS // len(space.items)))
        for start in range(0, len(cases), width):
            block = slice(start, start + width)
            gains += [
                1 / np.log2(ranks[0] + 2.0) if ranks[0] < _DEPTH else 0.0
                for ranks in target_ranks(users[block] @ space.items.T, masked[block], targets[block])
            ]
        return float(np.mean(gains)) if gains else 0.0

    return ndcg


def _probes(interactions: Interactions, space: SequenceSpace, event_types: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    """Returns inputs that show the quantization what the activations are like."""
    actions = action_rows(event_types, known_actions(space.event_types))
    lengths = np.diff(interactions.starts)
    users = np.argsort(-lengths, kind="stable")[:: max(1, len(lengths) // _PROBES)][:_PROBES]
    return [sequence_inputs([encoded_history(space, interactions.history(user), actions)]) for user in users.tolist() if lengths[user]]


def _key(windows: Windows, texts: FloatArray | None, recipe: Recipe, shape: Shape, *, judged: bool) -> str:
    """Returns what a checkpoint must agree on to be gone on with."""
    digest = hashlib.sha256(json.dumps([asdict(recipe), asdict(shape), judged, windows.item_count]).encode())
    for array in (windows.items, windows.actions, windows.gaps, windows.bounds, texts):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
