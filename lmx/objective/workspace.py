"""Scratch memory kept between calls, and how a batch is cut so that the work on it stays in cache."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import torch
from torch import Tensor

_MIB = 2**20


@dataclass(frozen=True)
class Tiling:
    """How many rows (tokens) are worked on at once, and how many columns (of the vocabulary) within them."""

    rows: int
    columns: int


def choose_tiling(tokens: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> Tiling:
    """Choose the cut of a (tokens, vocabulary) matrix of `dtype` for a device.

    One chunk of rows keeps its exponentials of the whole vocabulary, (rows, V), so that no product is ever
    done twice. On a CPU plain torch goes over tiles that stay in cache (C++ has its own); on a GPU, where a
    launch is what costs, over the whole vocabulary at once.
    """
    if device.type == "cpu":
        # the more rows, the less often the weight is read and its gradient added to
        most, columns, budget = 1024, 1024, 128 * _MIB
    else:
        most, columns, budget = 8192, vocabulary, 128 * _MIB
    rows = min(most, max(64, budget // (dtype.itemsize * vocabulary)))
    chunks = max(1, math.ceil(tokens / rows))
    even = math.ceil(tokens / chunks / 16) * 16  # chunks of one size, whole vector registers
    return Tiling(max(1, min(even, tokens)), min(columns, vocabulary))


class Workspace(threading.local):
    """Named buffers that grow as needed and are used again by the next call; each thread has its own.

    A fresh large tensor costs a page fault for every 4 KiB written: more than the arithmetic done on it.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        return Workspace, ()  # a copy, or another process, starts with an empty one

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return an uninitialised contiguous tensor, in the memory of the last one taken by this name."""
        key = (name, device, dtype)
        size = math.prod(shape)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            # an evaluation under inference_mode may come first; its tensors could not be written in training
            with torch.inference_mode(False):
                buffer = self._buffers[key] = torch.empty(size, dtype=dtype, device=device)
        return buffer[:size].view(shape)

    def cast(self, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `tensor`, or a copy in `dtype` where it has another."""
        if tensor.dtype == dtype:
            return tensor
        return self.take(name, tuple(tensor.shape), dtype, tensor.device).copy_(tensor)

    def take_away(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Return what `take` does, for the caller to keep; the next one gets other memory."""
        taken = self.take(name, shape, dtype, device)
        del self._buffers[name, device, dtype]
        return taken

    def put_back(self, name: str, tensor: Tensor) -> None:
        """Take over the memory of a contiguous tensor that nobody uses any more."""
        self._buffers[name, tensor.device, tensor.dtype] = tensor.detach().view(-1)
