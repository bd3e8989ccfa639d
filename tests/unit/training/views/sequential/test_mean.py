from __future__ import annotations

import torch

from training.views.sequential.mean import RunningMean
from training.views.sequential.net import SequenceNet, Shape


def _net() -> SequenceNet:
    return SequenceNet(Shape(1, 8, 1, 2), 20, None, dropout=0.0, unknown=0.0, seed=0)


def test_catching_up_rows_gives_the_mean_of_updating_all() -> None:
    """Over steps that touch a few rows each, the mean of the table is that of a mean which updates every row at every step."""
    net = _net()
    lazy, plain = RunningMean(net, sparse=True), RunningMean(net, sparse=False)
    torch.manual_seed(1)
    for step in range(1, 60):
        rows = torch.unique(torch.randint(0, 12, (3,)))  # rows past 12 are never touched
        lazy.before_step(rows)
        with torch.no_grad():
            net.ids.weight[rows] += torch.randn(len(rows), 8)
            net.stranger += torch.randn(8)
        share = min(0.9, (1 + step) / (10 + step))
        for mean in (lazy, plain):
            mean.after_step(share, rows)
        if step == 30:
            lazy.catch_up()
    lazy.catch_up()
    for name, value in plain.values.items():
        torch.testing.assert_close(lazy.values[name], value, rtol=1e-4, atol=1e-5)


def test_swapped_twice_the_network_is_itself() -> None:
    """In between it holds the mean, and its tensors are where they were afterwards."""
    net = _net()
    mean = RunningMean(net, sparse=False)
    with torch.no_grad():
        net.ids.weight += 1.0
    place, own = net.ids.weight.data_ptr(), net.ids.weight.detach().clone()
    mean.swap()
    torch.testing.assert_close(net.ids.weight.detach(), own - 1.0)
    mean.swap()
    assert net.ids.weight.data_ptr() == place
    torch.testing.assert_close(net.ids.weight.detach(), own)
