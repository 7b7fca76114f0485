"""What every objective returns: sums over the valid targets of a batch, never means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

IGNORE_INDEX = -100
"""The target of a position at which nothing is to be predicted (padding, filler rows)."""


@dataclass(frozen=True)
class TokenSums:
    """Sums over the valid targets of one micro-batch; divide by `tokens` once all of them are added up.

    All but `token_nats` are 0-dim tensors on the device of the hidden states. `loss` carries the gradient and
    is float32 (float64 for float64 inputs); the others are detached and float64, so that counts stay exact
    and a whole split can be added up.
    """

    loss: Tensor
    """What is minimised, times `scale` and any token weights: nats, or the mixed objective."""
    nats: Tensor
    """Cross-entropy, unscaled and unweighted."""
    entropy: Tensor
    """Entropy of the predictive distributions, nats."""
    correct: Tensor
    """Targets whose logit is above every other logit of their row. A tie is no hit. NaN without `details`."""
    correct_top5: Tensor
    """Targets with fewer than five other logits at or above theirs. NaN without `details`."""
    confidence: Tensor
    """Probability of the likeliest token."""
    tokens: Tensor
    """Number of valid targets."""
    token_nats: Tensor
    """Cross-entropy of each target, (N,), detached; 0 where nothing is to be predicted."""
    cosine: Tensor | None = None
    """1 − cos between the expected and the true embedding; None where the objective has no such part."""


class Objective(Protocol):
    """A loss computed from hidden states, without the logits of the batch ever being in memory together."""

    def compile(self) -> None:
        """From now on, let the compiler fuse what it can; what comes out differs by rounding."""
        ...

    def reuse(self, gradient: Tensor | None) -> None:
        """Take back the memory of the weight's gradient, at which nobody will look any more.

        On a CPU the kernel hands out memory of this size page by page, which takes longer than to fill it.
        """
        ...

    def __call__(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        weight: Tensor,
        bias: Tensor | None = None,
        embedding: Tensor | None = None,
        token_weight: Tensor | None = None,
        scale: float | Tensor = 1.0,
        details: bool = True,
    ) -> TokenSums:
        """Compute the sums over one micro-batch.

        Args:
            hidden: hidden states after the final norm, (N, C).
            targets: the next token of each, (N,) int64, or `IGNORE_INDEX`.
            weight: weight of the head, (V, C); tied, it is the input embedding itself.
            bias: bias of the head, (V,).
            embedding: input embedding, (V, C); only an objective with a cosine part looks at it.
            token_weight: factor of each token in `loss`, (N,); it changes no other sum.
            scale: factor of `loss`, 1 / (tokens of the global batch) in training. The gradients carry it
                from the start, so that no pass over the head's gradient is needed to apply it later.
            details: whether to rank the targets (`correct`, `correct_top5`).
        """
        ...
