"""The distance between the expected embedding and the true one, on a chunk whose exponentials are at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmx.objective.gradients import Chunk, Gradients
from lmx.objective.softmax import Head

_SMALLEST_NORM = 1e-8
_ROWS = 16  # of a chunk whose chosen embeddings are in memory at once


@dataclass(frozen=True)
class CosineMix:
    """L = alpha · (1 − cos(μ, E[y])) + (1 − alpha) · cross-entropy, with μ = Σ pᵢ·E[i].

    The sum is over the `top_k` likeliest tokens, or all for None. p = softmax(logits / temperature), not
    normalised again after the choice.
    """

    alpha: float
    temperature: float
    top_k: int | None

    def chooses(self, vocabulary: int) -> bool:
        """Whether some tokens of a vocabulary are left out."""
        return self.top_k is not None and self.top_k < vocabulary


class CosineRows:
    """The cosine part of one chunk of rows: the distances, then the gradients of the whole mixed objective.

    With a `top_k` it takes memory for some numbers a chosen token; without one, for a second (R, V) matrix
    beside `chunk.keep`, in the same dtype.
    """

    def __init__(self, mix: CosineMix, chunk: Chunk, head: Head, embedding: Tensor, columns: int) -> None:
        """`embedding` is (V, C): exact where tokens are chosen, else in the dtype of the products."""
        self.mix, self.chunk, self.head = mix, chunk, head
        vocabulary = len(embedding)
        starts = range(0, vocabulary, columns)
        self.spans = [slice(start, min(start + columns, vocabulary)) for start in starts]
        # exp(x − reference) · shift ≤ 1, so that a power of it cannot overflow
        self._shift = (chunk.softmax.reference - chunk.softmax.peak).exp()[:, None]
        self._total = chunk.softmax.total[:, None] * self._shift
        if mix.temperature != 1.0:
            totals = [self._powers(chunk.keep[:, span]).sum(-1, keepdim=True) for span in self.spans]
            self._total = torch.stack(totals).sum(0)
        kind = _Few if mix.chooses(vocabulary) else _All
        self._chosen: _Few | _All = kind(self, embedding)

    def distance(self, true: Tensor) -> Tensor:
        """Return 1 − cos between expected and `true` embeddings (R, C), one a row."""
        self._length, self._unit = _normalised(self._chosen.expected)
        self._true_length, self._true_unit = _normalised(true)
        self._cosine = torch.linalg.vecdot(self._unit, self._true_unit)
        return 1 - self._cosine

    def differentiate(self, gradients: Gradients) -> None:
        """Add the embedding's gradient, and leave that of the logits in `keep`."""
        chunk, cosine = self.chunk, self._cosine[:, None]
        pull = -self.mix.alpha * chunk.weight[:, None]
        d_expected = (self._true_unit - cosine * self._unit) * (pull / self._length)
        d_true = (self._unit - cosine * self._true_unit) * (pull / self._true_length)
        gradients.add_embedding_rows(chunk.targets, d_true)
        self._chosen.add_embedding(gradients, d_expected)
        # Σ pᵢ·dpᵢ, which the softmax takes off
        mean = torch.linalg.vecdot(self._chosen.expected, d_expected)[:, None]
        share = (1 - self.mix.alpha) * chunk.weight[:, None]
        for span in self.spans:
            keep = chunk.keep[:, span]
            gradient = keep * (share / chunk.softmax.total[:, None])
            column = chunk.targets[:, None] - span.start
            inside = (column >= 0) & (column < gradient.shape[1])
            rows = torch.arange(len(gradient), device=gradient.device)
            own = rows, column.where(inside, 0)[:, 0]
            gradient.index_put_(own, -share.where(inside, 0.0)[:, 0], accumulate=True)
            d_p = self._chosen.slopes(d_expected, span) - mean
            gradient.addcmul_(self.probabilities(keep), d_p, value=1 / self.mix.temperature)
            if self.head.softcap is not None:
                gradient *= self.slope(keep)
            keep.copy_(gradient)
        self._chosen.finish(d_expected)

    def probabilities(self, exponentials: Tensor) -> Tensor:
        """Return p of some of `chunk.keep`, (R, W)."""
        return self._powers(exponentials).div_(self._total)

    def slope(self, exponentials: Tensor) -> Tensor:
        """Return the softcap's derivative of some of `chunk.keep`: no capped logit is beyond ±softcap."""
        assert self.head.softcap is not None
        reference = self.chunk.softmax.reference[:, None]
        logits = (exponentials.to(reference.dtype).log() + reference).clamp(
            -self.head.softcap, self.head.softcap
        )
        return self.head.slope(logits, out=logits)

    def _powers(self, exponentials: Tensor) -> Tensor:
        """Return exp((x − peak) / temperature)."""
        powers = exponentials * self._shift
        return powers if self.mix.temperature == 1.0 else powers.pow_(1 / self.mix.temperature)


class _All:
    """Every token of the vocabulary: products of whole matrices."""

    def __init__(self, rows: CosineRows, embedding: Tensor) -> None:
        head, keep = rows.head, rows.chunk.keep
        self._table = embedding
        self._p = head.like_keep("chosen", len(keep))
        for span in rows.spans:
            self._p[:, span] = rows.probabilities(keep[:, span])
        self.expected = torch.mm(self._p, self._table).to(head.exact)  # (R, C)

    def add_embedding(self, gradients: Gradients, d_expected: Tensor) -> None:
        """Add the gradient of the embedding from that of μ, (R, C)."""
        gradients.add_embedding(self._p, d_expected.to(self._p.dtype))

    def slopes(self, d_expected: Tensor, span: slice) -> Tensor:
        """Return the gradient of p in some columns, (R, W), from that of μ."""
        return torch.mm(self._table[span], d_expected.to(self._table.dtype).t()).t().to(d_expected.dtype)

    def finish(self, d_expected: Tensor) -> None:
        """Nothing is left to be done."""


class _Few:
    """The `top_k` likeliest tokens of each row: nothing is multiplied that was not chosen."""

    def __init__(self, rows: CosineRows, embedding: Tensor) -> None:
        assert rows.mix.top_k is not None
        self._rows = rows
        self._table = embedding
        self._kept, self._ids = rows.chunk.keep.topk(rows.mix.top_k, sorted=False)  # (R, k)
        self._p = rows.probabilities(self._kept)
        self.expected = self._bag(self._p)  # (R, C)

    def add_embedding(self, gradients: Gradients, d_expected: Tensor) -> None:
        """Add the gradient of the embedding from that of μ, (R, C)."""
        for start in range(0, len(self._p), _ROWS):
            part = slice(start, start + _ROWS)
            rows = self._p[part, :, None] * d_expected[part, None, :]  # (R', k, C)
            gradients.add_embedding_rows(self._ids[part].flatten(), rows.flatten(0, 1))

    def slopes(self, d_expected: Tensor, span: slice) -> float:
        """Of the tokens not chosen there are none; `finish` adds the others."""
        return 0.0

    def finish(self, d_expected: Tensor) -> None:
        """Add to the gradient of the logits in `keep` what the chosen p contribute."""
        with torch.enable_grad():
            p = self._p.detach().requires_grad_()
            (d_p,) = torch.autograd.grad(self._bag(p), p, d_expected)
        d_logits = (self._p * d_p) / self._rows.mix.temperature
        if self._rows.head.softcap is not None:
            d_logits *= self._rows.slope(self._kept)
        keep = self._rows.chunk.keep
        rows = torch.arange(len(keep), device=keep.device)[:, None]
        keep.index_put_((rows, self._ids), d_logits.to(keep.dtype), accumulate=True)

    def _bag(self, p: Tensor) -> Tensor:
        """Return Σ pᵢ·E[i] of each row without its terms being in memory."""
        return F.embedding_bag(self._ids, self._table, mode="sum", per_sample_weights=p)


def _normalised(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths (R, 1) and the vectors (R, C) divided by them."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)
    return length, vectors / length
