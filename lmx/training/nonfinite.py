"""NaN and infinity: kept from the weights, and traced to the layer where they began."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from lmx import native


class DeviceGuard:
    """Keeps a non-finite update from the weights without waiting for the device.

    Fused optimizers of torch read `found_inf` on the device and then change nothing: the protocol of
    torch.amp.GradScaler. What any other has written is taken back on the device. From the first such update
    on, every later one is kept back as well, so that the weights stay as they were until the host looks.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        """`optimizer`: one, or several behind one object with `parts`."""
        parts: Sequence[Any] = getattr(optimizer, "parts", [optimizer])
        self._fused = [part for part in parts if all(group.get("fused") for group in part.param_groups)]
        self._others = [part for part in parts if part not in self._fused]
        self._found: Tensor | None = None
        self._before: list[tuple[Tensor, Tensor]] = []  # weights of the others, and what they were

    def keep_back(self, trouble: Tensor) -> None:
        """Let the next update be nothing where `trouble`, 0-dim bool, is true now or was before."""
        self._found = trouble if self._found is None else self._found | trouble
        for part in self._fused:
            part.found_inf = self._found.float()
        groups = [group for part in self._others for group in part.param_groups]
        self._before = [(p, p.detach().clone()) for group in groups for p in group["params"]]

    @torch.no_grad()
    def take_back(self) -> None:
        """After the update: undo it where `keep_back` was told to."""
        for p, before in self._before:
            p.copy_(torch.where(self._found, before, p))  # type: ignore[arg-type]
        self._before.clear()


class Trouble(NamedTuple):
    """What is known of an update that is not finite."""

    stage: int  # where it began: 0 in the forward pass, 1 in the loss, 2 in the backward pass
    culprit: str
    loss: float  # nats per token
    windows: list[int]  # those it came from

    def over_ranks(self) -> Trouble:
        """Return what all ranks know together: where it began, in whose windows; every rank must call it.

        A rank whose own pass was sound knows only that the sum of the gradients is not finite.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return self
        found: list[Trouble] = [self] * dist.get_world_size()
        dist.all_gather_object(found, self)
        first = min(found, key=lambda trouble: trouble.stage)
        windows = [number for one in found if one[:2] == first[:2] for number in one.windows]
        loss = sum(one.loss for one in found) / len(found)
        return Trouble(first.stage, first.culprit, loss, windows)


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
        # in C++ a block calls not all of its modules; it is asked where plain torch finds nothing
        for how in (native.left_out(), nullcontext()):
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), how:
                forward()
            if found:
                break
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
