"""The distance between the expected embedding and the true one, on a chunk whose exponentials are at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmx.objective.gradients import Chunk, Gradients
from lmx.objective.softmax import Head

_SMALLEST_NORM = 1e-8


@dataclass(frozen=True)
class CosineMix:
    """L = alpha · (1 − cos(μ, E[y])) + (1 − alpha) · cross-entropy, with μ = Σ pᵢ·E[i].

    The sum is over the `top_k` likeliest tokens, or all for None; tokens exactly as likely as the last one
    chosen are chosen too. p = softmax(logits / temperature), not normalised again after the choice.
    """

    alpha: float
    temperature: float
    top_k: int | None


class CosineRows:
    """The cosine part of one chunk of rows: the distances, then the gradients of the whole mixed objective.

    Needs memory for a second (R, V) matrix beside `chunk.keep`, in the same dtype.
    """

    def __init__(self, mix: CosineMix, chunk: Chunk, head: Head, embedding: Tensor, columns: int) -> None:
        self.mix, self.chunk, self.head = mix, chunk, head
        keep, vocabulary = chunk.keep, len(embedding)
        starts = range(0, vocabulary, columns)
        self._spans = [slice(start, min(start + columns, vocabulary)) for start in starts]
        self._table = embedding  # (V, C), in the dtype of the products
        # exp(x − reference) · shift ≤ 1, so that a power of it cannot overflow
        self._shift = (chunk.softmax.reference - chunk.softmax.peak).exp()[:, None]
        self._total = chunk.softmax.total[:, None] * self._shift
        if mix.temperature != 1.0:
            totals = [self._powers(span).sum(-1, keepdim=True) for span in self._spans]
            self._total = torch.stack(totals).sum(0)
        self._least = None
        if mix.top_k is not None and mix.top_k < vocabulary:
            self._least = keep.topk(mix.top_k).values[:, -1:]
        self._chosen = head.space.take("chosen", tuple(keep.shape), keep.dtype, keep.device)
        for span in self._spans:
            self._chosen[:, span] = self._mask(self._powers(span).div_(self._total), span)
        self._expected = torch.mm(self._chosen, embedding).to(head.exact)  # (R, C)

    def distance(self, true: Tensor) -> Tensor:
        """Return 1 − cos between expected and `true` embeddings (R, C), one a row."""
        self._length, self._unit = _normalised(self._expected)
        self._true_length, self._true_unit = _normalised(true)
        self._cosine = torch.linalg.vecdot(self._unit, self._true_unit)
        return 1 - self._cosine

    def differentiate(self, gradients: Gradients) -> None:
        """Add the embedding's gradient, and leave that of the logits in `keep`."""
        chunk, dtype = self.chunk, self.chunk.keep.dtype
        pull = -self.mix.alpha * chunk.weight[:, None]
        cosine = self._cosine[:, None]
        d_expected = (self._true_unit - cosine * self._unit) * (pull / self._length)
        d_true = (self._unit - cosine * self._true_unit) * (pull / self._true_length)
        gradients.add_embedding(self._chosen, d_expected.to(dtype), chunk.targets, d_true)
        # Σ pᵢ·dpᵢ, which the softmax takes off
        mean = torch.linalg.vecdot(self._expected, d_expected)[:, None]
        share = (1 - self.mix.alpha) * chunk.weight[:, None]
        for span in self._spans:
            d_p = torch.mm(d_expected.to(dtype), self._table[span].t()).to(mean.dtype)
            d_p = self._mask(d_p, span).sub_(mean)
            p = self._powers(span).div_(self._total)
            keep = chunk.keep[:, span]
            gradient = keep * (share / chunk.softmax.total[:, None])
            column = chunk.targets[:, None] - span.start
            inside = (column >= 0) & (column < gradient.shape[1])
            gradient.scatter_add_(1, column.where(inside, 0), -share.where(inside, 0.0))
            gradient.addcmul_(p, d_p, value=1 / self.mix.temperature)
            if self.head.softcap is not None:
                gradient *= self._slope(keep)
            keep.copy_(gradient)

    def _powers(self, span: slice) -> Tensor:
        """Return exp((x − peak) / temperature) of some columns, (R, W)."""
        powers = self.chunk.keep[:, span] * self._shift
        return powers if self.mix.temperature == 1.0 else powers.pow_(1 / self.mix.temperature)

    def _mask(self, values: Tensor, span: slice) -> Tensor:
        """Zero the columns that were not chosen."""
        if self._least is None:
            return values
        return values.masked_fill_(self.chunk.keep[:, span] < self._least, 0.0)

    def _slope(self, keep: Tensor) -> Tensor:
        """Return the softcap's derivative, from the exponentials: a capped logit is never below −softcap."""
        assert self.head.softcap is not None
        reference = self.chunk.softmax.reference[:, None]
        logits = (keep.to(reference.dtype).log() + reference).clamp_min(-self.head.softcap)
        return self.head.slope(logits, out=logits)


def _normalised(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths (R, 1) and the vectors (R, C) divided by them."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)
    return length, vectors / length
