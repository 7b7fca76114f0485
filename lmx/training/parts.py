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

    The mix gives g at once. The part of the smaller share is taken in a pass of its own; the other is what
    remains, divided by at least a half, so that rounding is hardly magnified. So one update in
    `train.log_every_steps` costs twice as much.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Build the smaller part of an experiment whose objective mixes."""
        config = experiment.objective
        self.every = experiment.train.log_every_steps
        self._cosine = config.alpha < 0.5  # whether that is the smaller part
        changes = {"alpha": 1.0} if self._cosine else {"kind": "cross_entropy"}
        self.smaller = build_objective(dataclasses.replace(config, **changes), experiment.model)
        self._share = min(config.alpha, 1 - config.alpha)
        self.norms: tuple[Tensor, Tensor] | None = None  # of g_ce and of g_cos, at the last such update

    def due(self, step: int, total_steps: int | None) -> bool:
        """Whether a record ends with update number `step`."""
        return step % self.every == 0 or step == total_steps

    @contextmanager
    def apart(self, gradients: list[Tensor], loss_scale: float) -> Iterator[None]:
        """Have gradients of zero inside, where those of `smaller` are to be added up; outside they are g.

        All of them are `loss_scale` times too large.
        """
        whole = torch._foreach_clone(gradients)
        torch._foreach_zero_(gradients)
        yield
        larger = torch._foreach_sub(whole, gradients, alpha=self._share)
        norms = [_norm(larger) / (1 - self._share) / loss_scale, _norm(gradients) / loss_scale]
        self.norms = (norms[0], norms[1]) if self._cosine else (norms[1], norms[0])
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
