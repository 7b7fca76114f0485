"""One tile of logits: everything that is measured on it, in one walk; plain, or fused by the compiler."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

_LOG2_E = math.log2(math.e)


class Tile(NamedTuple):
    """A chunk of rows, some columns of the vocabulary."""

    product: Tensor  # hidden · weightᵀ of these columns, (R, W)
    bias: Tensor | None  # of these columns, (W,)
    column: Tensor  # where each row's target is, (R,), outside 0…W−1 where it is in another tile
    rivals: Tensor | None  # logits of the targets, (R,), to be ranked among all
    keep: Tensor | None  # where exp(x − reference) is left, (R, W), times the slope of a softcap if `sloped`


class Seen(NamedTuple):
    """What has been seen of a chunk of rows so far; all fields are (R,)."""

    reference: Tensor  # what exponentials are taken relative to
    peak: Tensor  # largest logit
    target: Tensor  # logit of the target, once its tile came
    above: Tensor  # how many logits are at or above the rivals

    @classmethod
    def nothing(cls, targets: Tensor, exact: torch.dtype) -> Self:
        """Return the state before the first tile."""
        lowest = torch.full(targets.shape, -math.inf, dtype=exact, device=targets.device)
        # four tensors: one given twice would be compiled apart from what the second tile gives
        return cls(lowest, lowest.clone(), torch.zeros_like(lowest), torch.zeros_like(lowest))


@dataclass(frozen=True)
class TilePass:
    """The walk over a tile; the fields are what a compiled version is specialised for."""

    softcap: float | None
    sloped: bool  # `keep` takes the exponentials times the slope of the softcap
    headroom: float  # how far above the reference a logit may be before the reference moves

    def __call__(self, tile: Tile, seen: Seen, x: Tensor, e: Tensor) -> tuple[Seen, Tensor, Tensor]:
        """Take in one tile after those of `seen`.

        `x` and `e` are scratch memory, (R, W), exact; `x` may be the product, and `e` may be `keep`.

        Returns what has been seen now, and of this tile Σ exp(x − reference) and Σ exp(…) · (x − reference).
        """
        product, bias, column, rivals, keep = tile
        if x is not product:
            x.copy_(product)
        as_logits(x, bias, self.softcap)
        width = x.shape[1]
        here = x.gather(1, column.clamp(0, width - 1)[:, None])[:, 0]
        target = torch.where((column >= 0) & (column < width), here, seen.target)
        top = x.amax(-1)
        reference = torch.where(top > seen.reference + self.headroom, top, seen.reference)
        above = seen.above
        if rivals is not None:
            # written as 0 and 1, which are faster to add than booleans
            above = above + torch.ge(x, rivals[:, None], out=e).sum(-1)
        slope = None
        if self.sloped and self.softcap is not None:
            slope = softcap_slope(x, self.softcap)
        x.sub_(reference[:, None])
        if torch.compiler.is_compiling():
            e.copy_(x.exp())
        else:
            torch.exp2(torch.mul(x, _LOG2_E, out=e), out=e)  # three times as fast as torch's own exp on a CPU
        total = e.sum(-1)
        moment = x.mul_(e).sum(-1)
        if slope is not None:
            e.mul_(slope)
        if keep is not None and keep is not e:
            keep.copy_(e)
        return Seen(reference, torch.maximum(seen.peak, top), target, above), total, moment


class FusedPass:
    """A `TilePass` as one kernel of the compiler, for the shape of the first tile that it is given.

    Any other shape (the last columns, the last rows of an epoch) takes the plain walk: nothing is compiled
    twice, and nothing in the middle of a run.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._kernel = torch.compile(_walk_in_fresh_memory, dynamic=False, fullgraph=True)

    def takes(self, tile_pass: TilePass, tile: Tile) -> bool:
        """Whether a tile is of the kind that is compiled; the first one of which something is kept is."""
        if tile.keep is None:
            return False
        product = tile.product
        bare = tile.bias is None, tile.rivals is None
        key = (tile_pass, product.shape, product.dtype, product.device, *bare)
        if self._key is None:
            self._key = key
        return key == self._key

    def __call__(self, tile_pass: TilePass, tile: Tile, seen: Seen) -> tuple[Seen, Tensor, Tensor]:
        """Do what `tile_pass` does, with scratch that never leaves the registers."""
        seen, total, moment = self._kernel(tile_pass, tile, seen)
        return Seen(*seen), total, moment


def _walk_in_fresh_memory(tile_pass: TilePass, tile: Tile, seen: Seen) -> tuple[Seen, Tensor, Tensor]:
    x = torch.empty(tile.product.shape, dtype=seen.peak.dtype, device=tile.product.device)
    return tile_pass(tile, seen, x, torch.empty_like(x))


def as_logits(x: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Turn products of hidden states and weight into logits, in place."""
    if bias is not None:
        x.add_(bias)
    if softcap is not None:
        x.div_(softcap).tanh_().mul_(softcap)
    return x


def softcap_slope(logits: Tensor, softcap: float, out: Tensor | None = None) -> Tensor:
    """Return the derivative of the softcap, 1 − (y / c)², from the capped logits y."""
    return torch.mul(logits, logits, out=out).mul_(-1 / softcap**2).add_(1.0)
