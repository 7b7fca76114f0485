"""The softmax of a chunk of rows over the whole vocabulary, tile by tile, with all that is measured on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmx.objective import native
from lmx.objective.tile import FusedPass, Seen, Tile, TilePass, as_logits, softcap_slope
from lmx.objective.workspace import Workspace


@dataclass(frozen=True)
class Head:
    """The output layer: logits = softcap(hidden · weightᵀ + bias), softcap(x) = c·tanh(x / c)."""

    weight: Tensor  # (V, C), in the dtype of the products
    bias: Tensor | None  # (V,)
    softcap: float | None
    exact: torch.dtype  # of everything but the products: float32, or float64
    space: Workspace

    def products(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Return hidden · weightᵀ of columns start…stop, (R, stop − start), in scratch memory."""
        out = self.space.take("product", (len(hidden), stop - start), hidden.dtype, hidden.device)
        return torch.mm(hidden, self.weight[start:stop].t(), out=out)

    def target_logits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the logit of each row's target, (R,), not rounded to the dtype of the products."""
        rows = self.weight.index_select(0, targets).to(self.exact)
        logits = torch.linalg.vecdot(hidden.to(self.exact), rows)
        bias = None if self.bias is None else self.bias.index_select(0, targets)
        return as_logits(logits, bias, self.softcap)

    def slope(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the derivative of the softcap, 1 − (y / c)², from the capped logits y."""
        assert self.softcap is not None
        return softcap_slope(logits, self.softcap, out)


@dataclass(frozen=True)
class Softmax:
    """Of one chunk of rows; all fields are (R,), exact. Probabilities are exp(x − reference) / total."""

    reference: Tensor
    total: Tensor
    target: Tensor  # logit of the target
    peak: Tensor  # largest logit
    entropy: Tensor  # nats
    rank: Tensor | None  # how many other logits are at or above the target's

    @property
    def nats(self) -> Tensor:
        """Cross-entropy of each row, −log p(target)."""
        return self.total.log() + (self.reference - self.target)

    @property
    def confidence(self) -> Tensor:
        """Probability of the likeliest token of each row."""
        return (self.peak - self.reference).exp() / self.total

    def sums(self, valid: Tensor, cosine: Tensor | None) -> Tensor:
        """Add up over the valid rows what TokenSums names, from `nats` to `cosine`, (7,) in float64."""
        unknown = torch.full_like(self.total, math.nan)
        rows = (
            self.nats,
            self.entropy,
            unknown if self.rank is None else self.rank < 1,
            unknown if self.rank is None else self.rank < 5,
            self.confidence,
            torch.ones_like(self.total),
            unknown if cosine is None else cosine,
        )
        return torch.stack([row.to(torch.float64) for row in rows]).where(valid, 0.0).sum(-1)


def softmax_rows(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    *,
    keep: Tensor | None,
    sloped: bool,
    columns: int,
    rank: bool,
    fused: FusedPass | None,
) -> Softmax:
    """Go once over the logits of `hidden` (R, C), in tiles of `columns`.

    With `keep` (R, V), exp(x − reference) is left there, times the slope of a softcap if `sloped`: scaled by
    1 / total it is the gradient of the logits, but for the target's own −1. The reference is the first tile's
    maximum, until a logit is so far above it that exponentials might overflow: so for all but extreme logits
    it is one number a row, and gradients are plain products of `keep`.
    """
    headroom = 0.0 if keep is not None and keep.dtype == torch.float16 else 40.0
    rivals = head.target_logits(hidden, targets) if rank else None
    tile_pass = TilePass(head.softcap, sloped and keep is not None, headroom)
    vocabulary = len(head.weight)
    spans = [(start, min(start + columns, vocabulary)) for start in range(0, vocabulary, columns)]
    seen = Seen.nothing(targets, head.exact)
    tiles: list[tuple[Tensor, Tensor, Tensor]] = []  # reference, total and moment of each
    for start, stop in spans:
        tile = Tile(
            product=head.products(hidden, start, stop),
            bias=None if head.bias is None else head.bias[start:stop],
            column=targets - start,
            rivals=rivals,
            keep=None if keep is None else keep[:, start:stop],
        )
        if native.takes(tile):
            seen, total, moment = native.walk(tile_pass, tile, seen)
        elif fused is not None and fused.takes(tile_pass, tile):
            seen, total, moment = fused(tile_pass, tile, seen)
        else:
            seen, total, moment = tile_pass(tile, seen, *_scratch(head, tile.product, tile.keep))
        tiles.append((seen.reference, total, moment))
    if keep is not None:
        _align(keep, spans, [reference for reference, _, _ in tiles])
    return _join(seen, tiles, rivals)


def _scratch(head: Head, product: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the memory for the logits of a tile and for their exponentials."""
    shape, device = tuple(product.shape), product.device
    x = product if product.dtype == head.exact else head.space.take("logits", shape, head.exact, device)
    if keep is not None and keep.dtype == head.exact:
        return x, keep
    return x, head.space.take("e", shape, head.exact, device)


def _join(seen: Seen, tiles: list[tuple[Tensor, Tensor, Tensor]], rivals: Tensor | None) -> Softmax:
    """Put the tiles together, each of which may have its own reference."""
    references, totals, moments = (torch.stack(parts) for parts in zip(*tiles, strict=True))  # (tiles, R)
    weights = (references - seen.reference).exp()
    totals = totals * weights
    total = totals.sum(0)
    # −Σ p·log p, with log p = (x − reference of the tile) − (lse − reference of the tile): no large terms
    surprise = totals * (total.log() + (seen.reference - references)) - moments * weights
    rank = None
    if rivals is not None:
        itself = seen.target >= rivals  # the target was counted among its own rivals
        rank = seen.above - itself.to(seen.above.dtype)
    return Softmax(seen.reference, total, seen.target, seen.peak, surprise.sum(0) / total, rank)


def _align(keep: Tensor, spans: list[tuple[int, int]], references: list[Tensor]) -> None:
    """Bring the tiles of `keep` to the last reference. On a GPU there is one tile: nothing to wait for."""
    last = references[-1]
    for (start, stop), reference in zip(spans[:-1], references[:-1], strict=True):
        if reference is not last and not torch.equal(reference, last):
            tile = keep[:, start:stop]
            tile.copy_(tile.to(last.dtype) * (reference - last).exp()[:, None])
