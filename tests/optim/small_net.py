"""A small network with the decoder's parameter names, and batches for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

torch.set_num_threads(1)


class Block(nn.Module):
    """A wide and a tall matrix, a square one, a bias and a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.down(torch.relu(self.up(self.norm(x)))))


class Net(nn.Module):
    """Embedding, blocks, norm and a head that may share the embedding's weight."""

    def __init__(self, tied: bool = True, layers: int = 2, width: int = 8, vocab: int = 11) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.final_norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.final_norm(x))


def make_net(**options: int | bool) -> Net:
    """A network with the same weights at each call."""
    torch.manual_seed(0)
    return Net(**options)  # type: ignore[arg-type]


def set_gradients(net: nn.Module, step: int) -> None:
    """Put the gradient of batch number `step` into `net`."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(11, (4, 6), generator=generator)
    net.zero_grad()
    nn.functional.cross_entropy(net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
