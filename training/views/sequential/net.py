"""The network: items' vectors in, a vector out whose product with an item's vector is the log-chance that the item comes next.

Shapes: B windows, T events, N items, U items of a batch, C candidates, M members, W width of one, D = 384 dimensions.

A pre-norm causal transformer (W.-C. Kang, J. McAuley, Self-Attentive Sequential Recommendation, ICDM 2018; R. Xiong et al., On Layer
Normalization in the Transformer Architecture, ICML 2020). Input and output share the items' vectors, so an item that is described by a text
alone can be read and recommended at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from server.domain.profiles import HISTORY_LIMIT
from server.inference.contract import SEQUENCE_ACTIONS, SEQUENCE_GAPS

_SPREAD = 0.02
"""Standard deviation of initial weights."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a saved network must agree on."""

    members: int
    width: int
    """Numbers of the item vectors that each member uses; what members leave of the view is zero."""
    layers: int
    heads: int


class Block(nn.Module):
    """One layer: attention to earlier events, then a feed-forward network."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.dropout = shape.heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, T, W) for (B, T, W). Padding is at the end, where causal attention never looks."""
        rows, steps, width = x.shape
        split = self.qkv(self.norm1(x)).view(rows, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True, dropout_p=rate)
        x = x + self._dropped(self.out(mixed.transpose(1, 2).reshape(rows, steps, width)))
        inner = self._dropped(functional.gelu(self.wide(self.norm2(x))))
        return x + self._dropped(self.narrow(inner))

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class Member(nn.Module):
    """One transformer over its part of the item vectors."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.positions = nn.Embedding(HISTORY_LIMIT, shape.width)
        self.actions = nn.Embedding(SEQUENCE_ACTIONS, shape.width)
        self.gaps = nn.Embedding(SEQUENCE_GAPS, shape.width)
        self.blocks = nn.ModuleList(Block(shape, dropout) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, items: Tensor, actions: Tensor, gaps: Tensor) -> Tensor:
        """Returns the user's vector after each event, (B, T, W), for the items' vectors (B, T, W), actions and gaps (B, T)."""
        steps, width = items.shape[1:]
        x = items * math.sqrt(width) + self.positions.weight[:steps] + self.actions(actions) + self.gaps(gaps)
        x = functional.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.norm(x)
        return result


class SequenceNet(nn.Module):
    """Item tower, and an ensemble of transformers that each read and predict their own part of the item vectors.

    Members learn from the same batches with a loss each, so they differ by their initial weights and by dropout alone; the mean of their
    log-chances ranks better than any of them (B. Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles, NeurIPS 2017).

    Args:
        shape: Sizes.
        items: N.
        texts: float32, (N, D), or None where items have none.
        dropout: Share of activations dropped while training.
        unknown: Share of items that show only what an item unknown to training would, while training.
        seed: Of the initial weights.
    """

    def __init__(self, shape: Shape, items: int, texts: Tensor | None, *, dropout: float, unknown: float, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.shape, self.unknown = shape, unknown
        self.register_buffer("texts", texts, persistent=False)
        self.ids = nn.Embedding(items, shape.members * shape.width)
        self.stranger = nn.Parameter(torch.zeros(shape.members * shape.width))
        self.project = nn.Linear(texts.shape[1], shape.members * shape.width, bias=False) if texts is not None else None
        self.members = nn.ModuleList(Member(shape, dropout) for _ in range(shape.members))
        self.apply(_initialize)

    def item_vectors(self, rows: Tensor) -> Tensor:
        """Returns the vectors of items, (U, M * W) for rows (U,). While training, some hide their identity."""
        own: Tensor = self.ids(rows)
        if self.training and self.unknown:
            hidden = torch.rand(len(rows), 1, device=rows.device) < self.unknown
            own = torch.where(hidden, self.stranger, own)
        return own if self.project is None else own + self._text(rows)

    def _text(self, rows: Tensor) -> Tensor:
        assert self.project is not None
        assert isinstance(self.texts, Tensor)
        described: Tensor = self.project(self.texts[rows])
        return described

    def forward(self, items: Tensor, actions: Tensor, gaps: Tensor) -> list[Tensor]:
        """Returns each member's vector after each event, M times (B, T, W), for the items' vectors (B, T, M * W)."""
        parts = torch.split(items, self.shape.width, dim=-1)
        return [member(part, actions, gaps) for member, part in zip(self.members, parts, strict=True)]


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_SPREAD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def batch_loss(net: SequenceNet, batch: tuple[Tensor, Tensor, Tensor, Tensor], candidates: Tensor, log_odds: Tensor) -> Tensor:
    """Returns the mean over members of the cross-entropy of a batch's targets among the candidates.

    Args:
        net: The network.
        batch: Items, actions, gaps and targets, int64, (B, T) each; target -1 is none.
        candidates: int64, (C,), ascending; holds every target.
        log_odds: float32, (C,), as `batches.Candidates` says.
    """
    items, actions, gaps, targets = batch
    shown = torch.unique(items)  # ascending
    vectors = net.item_vectors(torch.cat([shown, candidates]))  # (U, M * W)
    inputs = vectors[: len(shown)][torch.searchsorted(shown, items)]  # (B, T, M * W)
    offered = torch.split(vectors[len(shown) :], net.shape.width, dim=-1)
    learn = targets >= 0
    wanted = torch.searchsorted(candidates, targets[learn])  # (n,)
    losses = []
    for found, part in zip(net(inputs, actions, gaps), offered, strict=True):
        logits = (found[learn] @ part.T).float() - log_odds  # (n, C)
        logits = logits.scatter_add(1, wanted[:, None], log_odds[wanted][:, None])  # the target itself was not drawn
        losses.append(functional.cross_entropy(logits, wanted))
    return torch.stack(losses).mean()


def best_device() -> torch.device:
    """Returns the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def text_tensor(texts: NDArray[np.float32] | None) -> Tensor | None:
    """Returns text vectors as the network takes them."""
    return None if texts is None else torch.from_numpy(np.ascontiguousarray(texts))
