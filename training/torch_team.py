"""A team whose members are processes of a `torch.distributed` group.

The gradient is that of the members' batches put together: each weighs its own by its targets before they are summed. The item table's
gradient has the rows of a step only where the table is large, and is sent as such. Same as DistributedDataParallel in effect; that class
wants the loss computed in `forward`, and its buckets are dense.

Source: S. Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel Training, VLDB 2020.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from training.views.sequential.batches import Batch
from training.views.sequential.net import SequenceNet
from training.views.sequential.team import Team, Validate, company


class TorchTeam(Team):
    """The member of this process. The default group must be initialized, with a backend that sums sparse tensors, as gloo does."""

    def __init__(self) -> None:
        super().__init__(dist.get_rank(), dist.get_world_size())
        self._targets = 0.0

    def steps(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, int]]:
        """Yields as many steps as the member with most batches has."""
        own = super().steps(batches)
        while True:
            step = next(own, None)
            if not _total(torch.tensor([float(step is not None)]))[0]:
                return
            yield step or (company(), 0)

    def agreed(self, loss: float, targets: int) -> float:
        """Returns the mean loss over all members' targets; no number if one member's is none."""
        total = _total(torch.tensor([loss * targets, float(targets)], dtype=torch.float64))
        self._targets = float(total[1])
        return float(total[0] / total[1])

    @torch.no_grad()
    def share_gradients(self, net: SequenceNet, targets: int) -> None:
        """Sums gradients over members, each weighted by its share of the targets. Dense ones are sent in one piece."""
        grads = [value.grad for value in net.parameters() if value.grad is not None]
        dense = [grad for grad in grads if not grad.is_sparse]
        flat = torch.cat([grad.flatten() for grad in dense]) * (targets / self._targets)
        for grad, part in zip(dense, torch.split(_total(flat), [grad.numel() for grad in dense]), strict=True):
            grad.copy_(part.view_as(grad))
        for value in net.parameters():
            if value.grad is not None and value.grad.is_sparse:
                value.grad = _total((value.grad * (targets / self._targets)).coalesce())

    def judged(self, validate: Validate | None) -> Validate | None:
        """Returns a validation that the first member does and tells the others."""
        if validate is None:
            return None

        def told(net: SequenceNet) -> float:
            value = validate(net) if self.rank == 0 else 0.0
            return float(_total(torch.tensor([value], dtype=torch.float64))[0])

        return told


def _total(value: Tensor) -> Tensor:
    """Returns the sum over members."""
    dist.all_reduce(value)
    return value
