from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from training.growth.generate import generate
from training.torch_team import TorchTeam
from training.views.sequential import loop
from training.views.sequential.batches import Windows, make_windows
from training.views.sequential.loop import Recipe, Trainer
from training.views.sequential.net import SequenceNet, Shape
from training.views.sequential.team import Team

_RECIPE = Recipe(rate=1e-2, tokens=256, least_tokens=64, steps=16, sample=8)
_EPOCHS = 5


def _trained(team: Team, sparse_from: int) -> tuple[list[np.ndarray], list[float]]:
    """Returns a member's weights, and the losses of its epochs."""
    loop._SPARSE_FROM = sparse_from
    interactions = team.own(generate(1500, 40))
    windows: Windows = make_windows(interactions, np.full_like(interactions.kinds, 2))
    net = SequenceNet(Shape(1, 16, 1, 2), windows.item_count, None, dropout=0.1, unknown=0.05, seed=0)
    trainer = Trainer(net, windows, team.recipe(_RECIPE), checkpoint=None, key="k", progress=lambda _step, _share: None, team=team)
    rising = iter(range(_EPOCHS))  # the second member is told what the first finds, and would stop early by its own
    outcome = trainer.run(epochs=_EPOCHS, validate=team.judged(lambda _net: -float(next(rising)) if team.rank else float(next(rising))))
    return [value.detach().numpy() for value in net.parameters()], [line.loss for line in outcome.curve]


def _member(rank: int, meeting: str, sparse_from: int, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    results.put((rank, _trained(TorchTeam(), sparse_from)))
    dist.destroy_process_group()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sparse_from", [10, 1000], ids=["sparse", "dense"])
def test_two_members_stay_equal_and_learn_as_one_does(sparse_from: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After several epochs on different users both have the same weights, and the loss of one trainer that has all users."""
    monkeypatch.setattr(loop, "_SPARSE_FROM", sparse_from)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    members = [context.Process(target=_member, args=(rank, str(tmp_path / "meeting"), sparse_from, results)) for rank in range(2)]
    for member in members:
        member.start()
    found = dict(results.get(timeout=800) for _ in members)
    for member in members:
        member.join()
    for one, other in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    _, alone = _trained(Team(), sparse_from)
    together = np.mean([found[rank][1] for rank in range(2)], axis=0)
    assert together[-1] < 0.97 * together[0]
    assert together[-1] == pytest.approx(alone[-1], rel=0.05)
