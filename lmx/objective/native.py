"""The softmax of a chunk of rows over the vocabulary, and gradients through it, in C++ (native/head.cpp).

Products and the walk over the logits alternate in cache: no logit is ever in memory, or rounded to the dtype
of the products. In `keep` the vocabulary goes down: (V, R) in memory, R rounded up to whole vector registers.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lmx import native

HEADROOM = 40.0
_LANES = 16  # of a vector register
_TILE = 128  # of the vocabulary: no part is smaller
_PARTS = 8  # each has its own sum for the gradient of hidden states; more threads share out the rows


class Parts(NamedTuple):
    """What was seen of each row in each part of the vocabulary; all but the spans are (parts, R), exact."""

    spans: list[tuple[int, int]]
    reference: Tensor
    peak: Tensor
    target: Tensor  # -inf where it is in another part
    above: Tensor
    total: Tensor
    moment: Tensor
    pull: Tensor | None  # Σ keep · weight, (parts, R, C)


def takes(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether a head with `weight` (V, C), multiplied in `dtype`, can be worked on here."""
    if weight.device.type != "cpu" or not native.multiplies(dtype):
        return False
    return weight.dtype in (torch.float32, dtype) and weight.is_contiguous() and weight.shape[1] % 2 == 0


def lanes(rows: int) -> int:
    """Return `rows`, rounded up to whole vector registers."""
    return -(-rows // _LANES) * _LANES


def softmax_parts(
    weight: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    hidden: Tensor,
    targets: Tensor,
    start: Tensor,
    *,
    rank: bool,
    keep: Tensor | None,
    sloped: bool,
    pull: bool,
) -> Parts:
    """Go over the logits of `hidden` (R, C) as `softmax_rows` does, in parts of the vocabulary.

    `start` (R,), the logit of each target, is what exponentials are taken relative to at first, and what
    logits are ranked against with `rank`. With `sloped`, targets are left out of `keep`. `pull` asks for
    Σ keep · weight.
    """
    rows, (vocabulary, width) = len(hidden), weight.shape
    size = lanes(rows)
    assert keep is None or (keep.stride() == (1, size) and keep.dtype == hidden.dtype)
    hidden, targets, start = (_padded(part, size) for part in (hidden, targets.long(), start))
    threads = torch.get_num_threads()
    parts = max(1, min(threads, vocabulary // _TILE, _PARTS))
    groups = max(1, threads // parts)
    bounds = torch.arange(parts + 1) * vocabulary // parts
    seen = hidden.new_empty(6, parts, size, dtype=torch.float32)
    pulls = hidden.new_empty(parts, size, width, dtype=torch.float32) if pull else None
    _call(
        *("head", weight, _is_half(weight), None if bias is None else bias.contiguous()),
        *(hidden, _is_half(hidden), targets, start if rank else None, start, keep, pulls, seen),
        *(bounds, parts, groups, vocabulary, width, size, HEADROOM, float(softcap or 0), sloped),
    )
    limits = bounds.tolist()
    spans = list(itertools.pairwise(limits))
    reference, peak, target, above, total, moment = seen[:, :, :rows].unbind()
    pulls = None if pulls is None else pulls[:, :rows]
    return Parts(spans, reference, peak, target, above, total, moment, pulls)


def adds(total: Tensor, left: Tensor) -> bool:
    """Whether `add_product` can add to `total` what `left` gives."""
    if left.device.type != "cpu" or not native.multiplies(left.dtype):
        return False
    turned = left.stride(0) == 1 and left.stride(1) == lanes(len(left))
    return turned and total.dtype == torch.float32 and total.is_contiguous()


def add_product(total: Tensor, left: Tensor, right: Tensor, fresh: bool) -> None:
    """Add leftᵀ · right to `total` (V, C), or write it there; `left` (R, V) is as of `Head.like_keep`."""
    size = lanes(len(right))
    right = _padded(right, size)
    _call("head_gradient", left, _is_half(left), right, total, not fresh, *total.shape, size)


def _call(function: str, *arguments: Tensor | float | None) -> None:
    """Call a function that says whether it came to an end. Raises RuntimeError where it did not."""
    done = torch.zeros(1, dtype=torch.bool)
    native.call(function, *arguments, done)
    if not done.numpy()[0]:
        raise RuntimeError(f"lmx_{function}: torch refused a product, or there was no memory for it")


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bfloat16


def _padded(rows: Tensor, size: int) -> Tensor:
    """Return `rows` with zeros behind them, `size` in all, contiguous."""
    missing = size - len(rows)
    return rows.contiguous() if missing == 0 else F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, missing))
