"""The gradients of the two parts of the cosine mix, measured apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lmx.config import Experiment
from lmx.objective import build_objective


class Parts:
    """Norms of g_ce and g_cos in g = α·g_cos + (1 − α)·g_ce, at the updates that a record ends with.

    The mix gives g at once; cross-entropy alone is taken in a pass of its own and the rest is the other part.
    So one update in `train.log_every_steps` costs twice as much.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Build the cross-entropy of an experiment whose objective mixes."""
        self.alpha = experiment.objective.alpha
        self.every = experiment.train.log_every_steps
        plain = dataclasses.replace(experiment.objective, kind="cross_entropy")
        self.cross_entropy = build_objective(plain, experiment.model)
        self.norms: tuple[Tensor, Tensor] | None = None  # of g_ce and of g_cos, at the last such update

    def due(self, step: int, total_steps: int | None) -> bool:
        """Whether a record ends with update number `step`."""
        return step % self.every == 0 or step == total_steps

    @contextmanager
    def apart(self, gradients: list[Tensor], loss_scale: float) -> Iterator[None]:
        """Have gradients of zero inside, where g_ce is to be added up; outside they are g again.

        All of them are `loss_scale` times too large.
        """
        whole = torch._foreach_clone(gradients)
        torch._foreach_zero_(gradients)
        yield
        cosine = torch._foreach_div(torch._foreach_sub(whole, gradients, alpha=1 - self.alpha), self.alpha)
        self.norms = _norm(gradients) / loss_scale, _norm(cosine) / loss_scale
        torch._foreach_copy_(gradients, whole)

    def take(self) -> dict[str, float]:
        """Return the norms for a record and forget them."""
        if self.norms is None:
            return {}
        cross_entropy, cosine = (float(norm) for norm in self.norms)
        self.norms = None
        return {"train/grad_norm_cross_entropy": cross_entropy, "train/grad_norm_cosine": cosine}


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))), dtype=torch.float64)
