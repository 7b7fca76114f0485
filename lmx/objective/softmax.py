"""The softmax of a chunk of rows over the whole vocabulary, tile by tile, with all that is measured on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmx.objective.workspace import Workspace

_LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Head:
    """The output layer: logits = softcap(hidden · weightᵀ + bias), softcap(x) = c·tanh(x / c)."""

    weight: Tensor  # (V, C), in the dtype of the products
    bias: Tensor | None  # (V,)
    softcap: float | None
    exact: torch.dtype  # of everything but the products: float32, or float64
    space: Workspace

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Return the logits of columns start…stop, (R, stop − start), in scratch memory."""
        shape = (len(hidden), stop - start)
        logits = self.space.take("logits", shape, self.exact, hidden.device)
        if hidden.dtype == self.exact:
            torch.mm(hidden, self.weight[start:stop].t(), out=logits)
        else:
            product = self.space.take("product", shape, hidden.dtype, hidden.device)
            logits.copy_(torch.mm(hidden, self.weight[start:stop].t(), out=product))
        return self._finish(logits, None if self.bias is None else self.bias[start:stop])

    def target_logits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the logit of each row's target, (R,), not rounded to the dtype of the products."""
        rows = self.weight.index_select(0, targets).to(self.exact)
        logits = torch.linalg.vecdot(hidden.to(self.exact), rows)
        return self._finish(logits, None if self.bias is None else self.bias.index_select(0, targets))

    def slope(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the derivative of the softcap, 1 − (y / c)², from the capped logits y."""
        assert self.softcap is not None
        return torch.mul(logits, logits, out=out).mul_(-1 / self.softcap**2).add_(1.0)

    def _finish(self, logits: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None:
            logits.add_(bias)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits


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
) -> Softmax:
    """Go once over the logits of `hidden` (R, C), in tiles of `columns`.

    With `keep` (R, V), exp(x − reference) is left there, times the slope of a softcap if `sloped`: scaled by
    1 / total it is the gradient of the logits, but for the target's own −1. The reference is the first tile's
    maximum, until a logit is so far above it that exponentials might overflow: so for all but extreme logits
    it is one number a row, and gradients are plain products of `keep`.
    """
    headroom = 0.0 if keep is not None and keep.dtype == torch.float16 else 40.0
    rivals = head.target_logits(hidden, targets) if rank else None
    tiles = _Tiles(head, targets, rivals, headroom, sloped)
    vocabulary = len(head.weight)
    spans = [(start, min(start + columns, vocabulary)) for start in range(0, vocabulary, columns)]
    for start, stop in spans:
        tiles.add(head.logits(hidden, start, stop), start, None if keep is None else keep[:, start:stop])
    if keep is not None:
        _align(keep, spans, tiles.references)
    return tiles.result()


class _Tiles:
    """What has been seen of a chunk so far."""

    def __init__(
        self, head: Head, targets: Tensor, rivals: Tensor | None, headroom: float, sloped: bool
    ) -> None:
        self.head, self.targets, self.rivals = head, targets, rivals
        self.headroom, self.sloped = headroom, sloped
        self.references: list[Tensor] = []
        self.totals: list[Tensor] = []
        self.moments: list[Tensor] = []  # Σ exp(x − reference) · (x − reference) of each tile
        self.peak = self.target = self.above = torch.empty(0)

    def add(self, x: Tensor, start: int, keep: Tensor | None) -> None:
        """Take in the logits `x` (R, W) of the columns from `start`; overwrites them."""
        space, head = self.head.space, self.head
        if keep is not None and keep.dtype == x.dtype:
            e = keep
        else:
            e = space.take("e", tuple(x.shape), x.dtype, x.device)
        reference = self._find(x, start)
        if self.rivals is not None:
            # written as 0 and 1, which are faster to add than booleans
            above = torch.ge(x, self.rivals[:, None], out=e).sum(-1)
            self.above = above if start == 0 else self.above.add_(above)
        slope = None
        if self.sloped and keep is not None and head.softcap is not None:
            slope = head.slope(x, out=space.take("slope", tuple(x.shape), x.dtype, x.device))
        x.sub_(reference[:, None])
        torch.exp2(torch.mul(x, _LOG2_E, out=e), out=e)  # three times as fast as exp on a CPU
        self.references.append(reference)
        self.totals.append(e.sum(-1))
        self.moments.append(x.mul_(e).sum(-1))
        if slope is not None:
            e.mul_(slope)
        if keep is not None and keep.dtype != e.dtype:
            keep.copy_(e)

    def _find(self, x: Tensor, start: int) -> Tensor:
        """Update the largest logit and the target's; return the reference to use for this tile."""
        column = self.targets - start
        here = x.gather(1, column.clamp(0, x.shape[1] - 1)[:, None])[:, 0]
        top = x.amax(-1)
        if start == 0:
            self.target, self.peak = here, top
            return top
        self.target = torch.where((column >= 0) & (column < x.shape[1]), here, self.target)
        self.peak = torch.maximum(self.peak, top)
        return torch.where(top > self.references[-1] + self.headroom, top, self.references[-1])

    def result(self) -> Softmax:
        """Join the tiles, each of which may have its own reference."""
        reference, references = self.references[-1], torch.stack(self.references)  # (R,), (tiles, R)
        weights = (references - reference).exp()
        totals = torch.stack(self.totals) * weights
        total = totals.sum(0)
        # −Σ p·log p, with log p = (x − reference of the tile) − (lse − reference of the tile): no large terms
        surprise = totals * (total.log() + (reference - references)) - torch.stack(self.moments) * weights
        rank = None
        if self.rivals is not None:
            itself = self.target >= self.rivals  # the target was counted among its own rivals
            rank = self.above - itself.to(self.above.dtype)
        return Softmax(reference, total, self.target, self.peak, surprise.sum(0) / total, rank)


def _align(keep: Tensor, spans: list[tuple[int, int]], references: list[Tensor]) -> None:
    """Bring the tiles of `keep` to the last reference. On a GPU there is one tile: nothing to wait for."""
    last = references[-1]
    for (start, stop), reference in zip(spans[:-1], references[:-1], strict=True):
        if reference is not last and not torch.equal(reference, last):
            tile = keep[:, start:stop]
            tile.copy_(tile.to(last.dtype) * (reference - last).exp()[:, None])
