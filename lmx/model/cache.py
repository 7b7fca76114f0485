"""Keys and values of the tokens already seen, so that generation computes each token once."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer, in storage taken once for `capacity` tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, past: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write ``(B, H, T, D)`` behind `past` tokens; return all of them, ``(B, H, past + T, D)``."""
        if self.keys is None or self.values is None:
            batch, heads, _, width = keys.shape
            self.keys = keys.new_empty(batch, heads, self.capacity, width)
            self.values = values.new_empty(batch, heads, self.capacity, width)
        end = past + keys.shape[2]
        self.keys[:, :, past:end] = keys
        self.values[:, :, past:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]


class KeyValueCache:
    """The cache of a whole decoder, filled by passing it to `Decoder.forward`.

    `padding` ``(B,)`` counts the filler tokens on the left of each row: they are hidden from all others,
    and positions count from the first real token. All rows have the same number of columns, `length`.
    """

    def __init__(self, num_layers: int, capacity: int, padding: Tensor | None = None) -> None:
        self.capacity = capacity
        self.padding = padding
        self.length = 0
        self.layers = [LayerCache(capacity) for _ in range(num_layers)]

    def positions(self, length: int, device: torch.device) -> Tensor:
        """Return the positions of the next `length` tokens, ``(B or 1, T)``; filler tokens stand at 0."""
        columns = torch.arange(self.length, self.length + length, device=device)[None]
        if self.padding is None:
            return columns
        return (columns - self.padding[:, None]).clamp(min=0)
