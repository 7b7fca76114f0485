"""NaN and infinity: kept from the weights, and traced to the layer where they began."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class DeviceGuard:
    """Keeps a non-finite update from the weights without waiting for the device.

    Fused optimizers of torch read `found_inf` on the device and then change nothing: the protocol of
    torch.amp.GradScaler. From the first such update on, every later one is kept back as well, so that the
    weights stay as they were until the host looks.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        """`optimizer`: one, or several behind one object with `parts`."""
        self._parts: list[Any] = list(getattr(optimizer, "parts", [optimizer]))
        self.possible = all(group.get("fused") for part in self._parts for group in part.param_groups)
        self._found: Tensor | None = None

    def keep_back(self, norm: Tensor) -> None:
        """Let the next update be nothing if `norm`, 0-dim, or one before it is not finite."""
        found = (~norm.isfinite()).float()
        self._found = found if self._found is None else torch.maximum(self._found, found)
        for part in self._parts:
            part.found_inf = self._found


def first_non_finite(model: nn.Module, forward: Callable[[], object]) -> str | None:
    """Run `forward` and name the first module of `model` whose output is not finite; None where all are."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all(bool(tensor.isfinite().all()) for tensor in _tensors(output)):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _tensors(item)
