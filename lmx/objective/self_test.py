"""Is the head in C++ as exact as plain torch on this processor?"""

from __future__ import annotations

import torch
from torch import Tensor

from lmx import native
from lmx.objective.build import FusedObjective
from lmx.objective.fused import Settings

TOLERANCE = 3.0  # a sound head is as exact or more so; what is wrong by a hundredth is five times less so
_LEAST_ERROR = 1e-5  # relative: better ones are taken to be as large
_ROWS, _VOCABULARY = 37, 401  # beside whole registers, and several tiles, the last of an odd width


def head_error(width: int, softcap: float | None) -> float:
    """Return the largest error of the head in C++, as a multiple of plain torch's in the same precision.

    Of the loss and its gradients on random numbers, against float64: in float32, and with products in
    bfloat16, as in training; 0 where C++ multiplies neither. A softcap below 0.5 is tried as 0.5: where it is
    reached, all that is left of its slope is rounding.
    """
    cap = None if softcap is None else max(softcap, 0.5)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(_ROWS, width, generator=draw).bfloat16().float()
    weight = (2 * torch.randn(_VOCABULARY, width, generator=draw) / width**0.5).bfloat16().float()
    worst = torch.zeros(())
    for dtype in (torch.float32, torch.bfloat16):
        if not native.multiplies(dtype):
            continue
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            ours = _results(hidden, weight, cap)
            with native.left_out():
                theirs = _results(hidden, weight, cap)
        exact = _results(hidden.double(), weight.double(), cap)
        ratio = _errors(ours, exact) / _errors(theirs, exact).clamp(min=_LEAST_ERROR)
        worst = torch.maximum(worst, ratio.max())  # NaN stays NaN
    return float(worst)


def _results(hidden: Tensor, weight: Tensor, softcap: float | None) -> list[Tensor]:
    """Return each token's nats, the sums over all, and the gradients."""
    hidden, weight = (part.detach().requires_grad_() for part in (hidden, weight))
    targets = torch.arange(_ROWS) * _VOCABULARY // _ROWS
    sums = FusedObjective(Settings(softcap=softcap))(hidden, targets, weight=weight)
    gradients = torch.autograd.grad(sums.loss, (hidden, weight))
    return [sums.token_nats, sums.entropy, sums.confidence, *gradients]


def _errors(got: list[Tensor], exact: list[Tensor]) -> Tensor:
    """Return the largest error of each, relative to its largest number."""
    pairs = zip(got, exact, strict=True)
    return torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs])
