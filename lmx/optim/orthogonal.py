"""Optimizers of matrices whose direction is orthogonalised: what they share, and the iteration itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# matrix elements of one batched product, which bounds the extra memory to a few copies of this; on a CPU
# larger buffers are page-faulted anew each time
BATCH_ELEMENTS = {"cpu": 2**20, "cuda": 2**24}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class MatrixOptimizer(Optimizer):
    """Walks its matrices in batches of one size; what is no matrix belongs to `optimizer.rest`."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        """`defaults` holds lr, weight_decay, ns_steps and ns_dtype beside what the subclass adds.

        Raises ValueError for a value out of range or a parameter that is not a matrix.
        """
        lr, weight_decay = defaults["lr"], defaults["weight_decay"]
        if lr < 0 or weight_decay < 0:
            raise ValueError(f"lr and weight_decay must be ≥ 0, got {lr} and {weight_decay}")
        if defaults["ns_steps"] < 1:
            raise ValueError(f"ns_steps must be ≥ 1, got {defaults['ns_steps']}")
        if defaults["ns_dtype"] is not None and defaults["ns_dtype"] not in DTYPES:
            raise ValueError(f"ns_dtype must be one of {', '.join(DTYPES)}, got {defaults['ns_dtype']!r}")
        super().__init__(params, defaults)
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(f"matrices only, not shape {tuple(p.shape)}: optimizer.rest takes those")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the closure's result."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for batch in same_sized([p for p in group["params"] if p.grad is not None]):
                self.update(batch, group)
        return loss

    def update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one size, up to transposition."""
        raise NotImplementedError


def orthogonalise(
    matrices: Iterable[Tensor],
    steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    dtype: str | None = None,
) -> list[Tensor]:
    """Return Newton-Schulz of matrices of one size, each (r, c) or (c, r), as one batch; see `newton_schulz`.

    `dtype` is fp32 or bf16; None: bf16 where the device multiplies it natively, else fp32.
    """
    cast = [m.to(DTYPES[dtype] if dtype is not None else _native_dtype(m.device)) for m in matrices]
    tall = [matrix.shape[0] > matrix.shape[1] for matrix in cast]
    batch = torch.stack([m.mT if t else m for m, t in zip(cast, tall, strict=True)])  # (n, r, c), r ≤ c
    done = newton_schulz(batch, steps, coefficients)
    return [m.mT if t else m for m, t in zip(done.unbind(), tall, strict=True)]


def newton_schulz(x: Tensor, steps: int, coefficients: tuple[float, float, float]) -> Tensor:
    """Bring the singular values of matrices (n, r, c), r ≤ c, near 1 and leave the singular vectors.

    X ← X / ‖X‖_F, then `steps` times X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ. A zero matrix stays zero.
    """
    a, b, c = coefficients
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT  # (n, r, r)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def same_sized(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield batches of matrices that one stacked product takes: of one size, up to transposition."""
    batches: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for p in parameters:
        batches[min(p.shape), max(p.shape), p.dtype, p.device].append(p)
    for (rows, columns, _, device), batch in batches.items():
        size = max(1, BATCH_ELEMENTS[device.type] // (rows * columns))
        for start in range(0, len(batch), size):
            yield batch[start : start + size]


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions for products in bf16: a training step takes about half the time."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _native_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type != "cpu" or multiplies_bf16() else torch.float32
