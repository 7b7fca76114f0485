"""The gradients of a linear head and of an embedding, added up chunk by chunk in the exact dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmx.objective import native
from lmx.objective.softmax import Head, Softmax

WEIGHT = "gradient of the weight"  # in the workspace
_COLUMNS_CPU, _COLUMNS_GPU = 2048, 8192  # of a product in half precision before it is added up


@dataclass(frozen=True)
class Chunk:
    """Some rows of the batch, their softmax, and what is to become the gradient of their logits."""

    rows: slice  # of the batch
    hidden: Tensor  # (R, C), in the exact dtype
    targets: Tensor  # (R,), 0 where ignored
    weight: Tensor  # (R,) factor of each row in the gradient, 0 where ignored
    softmax: Softmax
    keep: Tensor  # (R, V): exp(x − reference), in the dtype of the products


class Gradients:
    """The gradients of hidden states (N, C), head weight (V, C), head bias (V,) and embedding (V, C).

    `needed` says which are wanted. With `tied`, the embedding is the weight, and so are their gradients.
    """

    def __init__(
        self,
        needed: tuple[bool, ...],
        inputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
        head: Head,
        tied: bool,
    ) -> None:
        hidden, weight, bias, embedding = inputs
        self.any = any(needed)
        self._head, self._inputs = head, inputs
        self._hidden = torch.empty_like(hidden) if needed[0] else None
        self._weight = None
        if needed[1]:
            self._weight = head.space.take_away(WEIGHT, tuple(weight.shape), head.exact, weight.device)
        self._bias = torch.zeros_like(bias, dtype=head.exact) if bias is not None and needed[2] else None
        self._table = None
        if embedding is not None and needed[3]:
            self._table = torch.zeros_like(embedding, dtype=head.exact)
        self._embedding = self._weight if tied else self._table
        # nothing was added to the weight's yet: its first product may simply be written there
        self._fresh = len(hidden) > 0 and not tied
        if self._weight is not None and not self._fresh:
            self._weight.zero_()

    def add_cross_entropy(self, chunk: Chunk, slope: Tensor | None) -> None:
        """Add a chunk's gradients of cross-entropy; `slope` (R,) is the softcap's at the targets.

        d logits = weight · (p − onehot(target)), and p = keep / total. The target's own entry, by far the
        largest where it is unlikely and a small difference where it is likely, is added apart, unrounded.
        """
        softmax = chunk.softmax
        others = 1 - (softmax.target - softmax.reference).exp() / softmax.total
        apart = chunk.weight * others if slope is None else chunk.weight * others * slope
        # not scatter_, which copies the whole matrix on a CPU
        rows = torch.arange(len(apart), device=apart.device)
        chunk.keep.index_put_((rows, chunk.targets), chunk.keep.new_zeros(()))
        self.add(chunk, chunk.weight / softmax.total, apart)

    def add(self, chunk: Chunk, factor: Tensor, apart: Tensor) -> None:
        """Add a chunk's gradients from d logits = factor · keep − apart · onehot(target), factors (R,)."""
        dtype = chunk.keep.dtype
        if self._hidden is not None:
            self._hidden[chunk.rows] = self._hidden_rows(chunk, factor, apart)
        if self._weight is not None:
            weighted = chunk.hidden * factor[:, None]
            self._accumulate(self._weight, chunk.keep, weighted.to(dtype), self._fresh)
            self._fresh = False
            true = torch.mul(chunk.hidden, -apart[:, None], out=weighted)
            self._weight.index_add_(0, chunk.targets, true)
        if self._bias is not None:
            self._bias.add_(torch.mm(factor.to(dtype)[None], chunk.keep)[0])
            self._bias.index_add_(0, chunk.targets, -apart)

    def add_embedding(self, p: Tensor, d_expected: Tensor) -> None:
        """Add the embedding's gradient from μ = p · E, (R, V) · (V, C)."""
        if self._embedding is not None:
            self._accumulate(self._embedding, p, d_expected, fresh=False)

    def add_embedding_rows(self, ids: Tensor, d_rows: Tensor) -> None:
        """Add the gradients of E[ids], (N, C) for (N,)."""
        if self._embedding is not None:
            self._embedding.index_add_(0, ids, d_rows)

    def finish(self, scale: float | Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the four inputs, times `scale`, in their dtypes."""
        parts = (self._hidden, self._weight, self._bias, self._table)
        results: list[Tensor | None] = []
        for part, tensor in zip(parts, self._inputs, strict=True):
            if part is not None and tensor is not None:
                if isinstance(scale, Tensor) or scale != 1.0:
                    part.mul_(scale)
                part = part.to(tensor.dtype)
            results.append(part)
        return tuple(results)

    def _hidden_rows(self, chunk: Chunk, factor: Tensor, apart: Tensor) -> Tensor:
        head, keep, pull = self._head, chunk.keep, chunk.softmax.pull
        if pull is None:
            out = head.space.take("hidden", tuple(chunk.hidden.shape), keep.dtype, keep.device)
            pull = torch.mm(keep, head.lowered, out=out).to(head.exact)
        rows = pull.mul_(factor[:, None])
        true = self._inputs[1].index_select(0, chunk.targets).to(head.exact)
        return rows.addcmul_(true, apart[:, None], value=-1)

    def _accumulate(self, total: Tensor, left: Tensor, right: Tensor, fresh: bool) -> None:
        """Add leftᵀ · right, (V, R) · (R, C), to `total`, or write it there."""
        if native.adds(total, left):
            native.add_product(total, left, right, fresh)
            return
        if left.dtype == total.dtype:
            torch.mm(left.t(), right, out=total) if fresh else total.addmm_(left.t(), right)
            return
        on_cpu, space = total.device.type == "cpu", self._head.space
        columns = _COLUMNS_CPU if on_cpu else _COLUMNS_GPU
        for start in range(0, len(total), columns):
            part = total[start : start + columns]
            out = space.take("weight_tile", tuple(part.shape), left.dtype, left.device)
            product = torch.mm(left[:, start : start + columns].t(), right, out=out)
            if fresh:
                part.copy_(product)
            elif on_cpu:  # where adding a tensor of another dtype would make a fresh copy of it
                part.add_(
                    space.take("exact_tile", tuple(part.shape), total.dtype, total.device).copy_(product)
                )
            else:
                part.add_(product)
