"""Where a token stands: rotary angles, ALiBi slopes, positions that restart with each document.

Learned positions are an `nn.Embedding` of the decoder; `position=none` adds nothing anywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]


def rope_rotation(positions: Tensor, head_dim: int, theta: float) -> Rotation:
    """Return cosines and sines of the rotary angles of positions ``(B, T)``: ``(B, 1, T, D/2)`` in fp32.

    Pair ``i`` turns by ``position · theta^(−2i/D)`` (Su et al., 2021). Computed anew in each pass: no
    buffer exists that a cast of the model to bf16 could round.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[:, None, :, None].float() * (1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: Rotation, layout: str) -> Tensor:
    """Turn each pair of the last dimension of ``(B, H, T, D)`` by its angle, in fp32; dtype as `x`.

    `layout` says which dims form pair ``i``: ``half`` is ``(i, i + D/2)``, ``interleaved`` ``(2i, 2i + 1)``.
    """
    cos, sin = rotation
    pair_axis = -2 if layout == "half" else -1
    pairs = x.unflatten(-1, (2, -1) if layout == "half" else (-1, 2))
    first, second = pairs.unbind(pair_axis)
    turned = torch.stack((first * cos - second * sin, second * cos + first * sin), pair_axis)
    return turned.flatten(-2).to(x.dtype)


def alibi_slopes(num_heads: int, device: torch.device | None = None) -> Tensor:
    """Return ALiBi's slope a head, ``(H,)`` (Press et al., 2022).

    For a power of two they are ``2^(−8h/H)``, h = 1 … H; otherwise those of the power of two below,
    followed by every other slope of the power of two above.
    """
    below = 1 << (num_heads.bit_length() - 1)
    slopes = [2 ** (-8 * head / below) for head in range(1, below + 1)]
    slopes += [2 ** (-4 * head / below) for head in range(1, 2 * below, 2)]
    return torch.tensor(slopes[:num_heads], device=device)


def positions_in_documents(documents: Tensor) -> Tensor:
    """Return positions ``(B, T)`` that start from 0 wherever the document number in ``(B, T)`` changes."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = torch.zeros_like(documents, dtype=torch.long)
    changed = documents[:, 1:] != documents[:, :-1]
    starts[:, 1:] = torch.where(changed, index[:, 1:], 0)
    return index - starts.cummax(dim=1).values
