"""The running mean of a network's weights, at the cost of what a step touched.

Shapes: N items, R rows of a step, W width of the item table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.views.sequential.net import SequenceNet

_ROWS = 8192
"""Rows brought up to date at once, some 12 MB a copy."""


class RunningMean:
    """mean = share * mean + (1 - share) * weights, after every step.

    Of a large item table only the rows of a step are updated. A row that no step touches keeps its weights, so its mean approaches them by
    the product of the shares since: that is caught up when the row is touched again, or read. The numbers are those of updating all rows.

    Args:
        net: Whose weights.
        sparse: Whether steps touch few rows of the item table, and tell which.
    """

    def __init__(self, net: SequenceNet, *, sparse: bool) -> None:
        self._net = net
        self._sparse = sparse
        self.values = {name: value.detach().clone() for name, value in net.named_parameters()}
        """By the parameters' names; right after `catch_up`."""
        self._log = 0.0  # of the product of all shares since the last `catch_up`
        self._seen = torch.zeros(
            net.ids.num_embeddings if sparse else 0, dtype=torch.float64, device=net.ids.weight.device
        )  # its value then

    @torch.no_grad()
    def before_step(self, rows: Tensor) -> None:
        """Catches up the rows of the item table that a step is about to change, (R,)."""
        if self._sparse:
            self._approach(rows)

    @torch.no_grad()
    def after_step(self, share: float, rows: Tensor) -> None:
        """Adds the weights after a step.

        Args:
            share: Weight of the mean so far, in (0, 1).
            rows: (R,), as given to `before_step`.
        """
        self._log += math.log(share)
        for name, value in self._net.named_parameters():
            if self._sparse and value is self._net.ids.weight:
                mean = self.values[name]
                mean[rows] = torch.lerp(mean[rows], value[rows], 1 - share)
                self._seen[rows] = self._log
            else:
                self.values[name].lerp_(value, 1 - share)

    @torch.no_grad()
    def catch_up(self) -> None:
        """Makes `values` right for all rows."""
        if self._sparse:
            for rows in torch.split(torch.arange(len(self._seen), device=self._seen.device), _ROWS):
                self._approach(rows)
            self._seen.zero_()
            self._log = 0.0

    def _approach(self, rows: Tensor) -> None:
        weights, mean = self._net.ids.weight, self.values["ids.weight"]
        kept = torch.exp(self._log - self._seen[rows]).to(weights.dtype)[:, None]  # (R, 1)
        mean[rows] = weights[rows] + kept * (mean[rows] - weights[rows])

    def swap(self) -> None:
        """Exchanges the network's weights and the mean, without a copy."""
        for name, value in self._net.named_parameters():
            self.values[name], value.data = value.data, self.values[name]
