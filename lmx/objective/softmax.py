"""The softmax of a chunk of rows over the whole vocabulary, tile by tile, with all that is measured on it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lmx.objective import native
from lmx.objective.tile import FusedPass, Seen, Tile, TilePass, as_logits, softcap_slope
from lmx.objective.workspace import Workspace


@dataclass(frozen=True)
class Head:
    """The output layer: logits = softcap(hidden · weightᵀ + bias), softcap(x) = c·tanh(x / c)."""

    weight: Tensor  # (V, C)
    bias: Tensor | None  # (V,), exact
    softcap: float | None
    dtype: torch.dtype  # of the products
    exact: torch.dtype  # of everything else: float32, or float64
    space: Workspace

    @cached_property
    def native(self) -> bool:
        """Whether C++ goes over its logits."""
        return native.takes(self.weight, self.dtype)

    @cached_property
    def lowered(self) -> Tensor:
        """The weight in the dtype of the products."""
        return self.space.cast("weight", self.weight, self.dtype)

    def like_keep(self, name: str, rows: int) -> Tensor:
        """Return scratch memory for a number of each logit, (R, V), as `softmax_rows` wants it for `keep`."""
        vocabulary, device = len(self.weight), self.weight.device
        if not self.native:
            return self.space.take(name, (rows, vocabulary), self.dtype, device)
        buffer = self.space.take(name, (vocabulary, native.lanes(rows)), self.dtype, device)
        buffer[:, rows:].zero_()  # products go over them too
        return buffer.t()[:rows]

    def products(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Return hidden · weightᵀ of columns start…stop, (R, stop − start), in scratch memory."""
        out = self.space.take("product", (len(hidden), stop - start), hidden.dtype, hidden.device)
        return torch.mm(hidden, self.lowered[start:stop].t(), out=out)

    def target_logits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the logit of each row's target, (R,), not rounded to the dtype of the products."""
        rows = self.weight.index_select(0, targets).to(self.dtype).to(self.exact)
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
    pull: Tensor | None = None  # (R, C): keep · weight, where it was made on the way; without the targets

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
    pull: bool,
    columns: int,
    rank: bool,
    fused: FusedPass | None,
) -> Softmax:
    """Go once over the logits of `hidden` (R, C), in tiles of `columns`.

    With `keep` (R, V), exp(x − reference) is left there, times the slope of a softcap if `sloped`: scaled by
    1 / total it is the gradient of the logits, but for the target's. The reference is the first tile's
    maximum, or the target's logit, until a logit is so far above it that exponentials might overflow: so for
    all but extreme logits it is one number a row, and gradients are plain products of `keep`. `pull` says
    whether keep · weight will be wanted; targets may be missing in it, and in `keep`, if `sloped`.
    """
    kept = sloped and keep is not None
    rivals = head.target_logits(hidden, targets) if rank or head.native else None
    if head.native:
        assert rivals is not None
        parts = native.softmax_parts(
            *(head.weight, head.bias, head.softcap, hidden, targets, rivals),
            rank=rank,
            keep=keep,
            sloped=kept,
            pull=pull and kept,
        )
        return _join_parts(parts, rivals if rank else None, keep)
    headroom = 0.0 if keep is not None and keep.dtype == torch.float16 else native.HEADROOM
    tile_pass = TilePass(head.softcap, kept, headroom)
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
        if fused is not None and fused.takes(tile_pass, tile):
            seen, total, moment = fused(tile_pass, tile, seen)
        else:
            seen, total, moment = tile_pass(tile, seen, *_scratch(head, tile.product, tile.keep))
        tiles.append((seen.reference, total, moment))
    references, totals, moments = (torch.stack(each) for each in zip(*tiles, strict=True))  # (tiles, R)
    if keep is not None:
        _align(keep, spans, references, seen.reference)
    return _join(seen, references, totals, moments, rivals)


def _scratch(head: Head, product: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the memory for the logits of a tile and for their exponentials."""
    shape, device = tuple(product.shape), product.device
    x = product if product.dtype == head.exact else head.space.take("logits", shape, head.exact, device)
    if keep is not None and keep.dtype == head.exact:
        return x, keep
    return x, head.space.take("e", shape, head.exact, device)


def _join_parts(parts: native.Parts, rivals: Tensor | None, keep: Tensor | None) -> Softmax:
    """Put parts of the vocabulary together."""
    reference = parts.reference.amax(0)
    if keep is not None:
        _align(keep, parts.spans, parts.reference, reference)
    seen = Seen(reference, parts.peak.amax(0), parts.target.amax(0), parts.above.sum(0))
    softmax = _join(seen, parts.reference, parts.total, parts.moment, rivals)
    if parts.pull is None:
        return softmax
    weights = (parts.reference - reference).exp()
    return dataclasses.replace(softmax, pull=(parts.pull * weights[:, :, None]).sum(0))


def _join(seen: Seen, references: Tensor, totals: Tensor, moments: Tensor, rivals: Tensor | None) -> Softmax:
    """Put tiles together, each of which may have its own reference; `references`, … are (tiles, R)."""
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


def _align(keep: Tensor, spans: list[tuple[int, int]], references: Tensor, wanted: Tensor) -> None:
    """Bring the tiles of `keep` to one reference. On a GPU there is one tile: nothing to wait for."""
    if len(spans) == 1 or torch.equal(references, wanted.expand_as(references)):
        return
    for (start, stop), reference in zip(spans, references, strict=True):
        tile = keep[:, start:stop]
        tile.copy_(tile.to(wanted.dtype) * (reference - wanted).exp()[:, None])
