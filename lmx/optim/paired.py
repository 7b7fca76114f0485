"""Two update rules behind one `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class PairedOptimizer(Optimizer):
    """Applies each of several optimizers to its own parameters, and looks like one from outside.

    `param_groups` are the parts' own, in order, and `state` is one mapping shared by all, so rates set here
    reach the parts, and saving and loading are those of any torch optimizer.
    """

    def __init__(self, *parts: Optimizer) -> None:
        """Take over `parts`, whose parameters must not overlap (ValueError)."""
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            self.state.update(part.state)
        self.parts = parts
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse groups once it is built (RuntimeError): which part would update them is not known."""
        if hasattr(self, "parts"):
            raise RuntimeError("PairedOptimizer takes no more groups; add them to its parts before pairing")
        super().add_param_group(param_group)

    def _share(self) -> None:
        """Give the parts this object's groups and state, so that there is one of each."""
        start = 0
        for part in self.parts:
            stop = start + len(part.param_groups)
            part.__setstate__({"state": self.state, "param_groups": self.param_groups[start:stop]})
            start = stop

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickling and copying keep: the parts too."""
        return super().__getstate__() | {"parts": self.parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take new groups and state, and hand them on to the parts."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let each part make its step; return the closure's result."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss
