"""Gradient norms, before clipping and before the optimizer."""

from __future__ import annotations

import numpy as np

from lmx.training.callbacks.base import Measure
from lmx.training.module import LanguageModule
from lmx.training.window import Steps


class GradientNorm(Measure):
    """Logs the L2 norm of the gradient, global and by layer group, each the mean over the updates."""

    def __init__(self, by_group: bool = True) -> None:
        """`by_group`: also one value for the embedding, each block, the final norm and the head."""
        self.by_group = by_group

    def measure(self, steps: Steps, module: LanguageModule, seconds: float) -> dict[str, float | None]:
        """Return `train/grad_norm` and `train/grad_norm/<group>`."""
        values: dict[str, float | None] = {"train/grad_norm": float(steps.grad_norm().mean())}
        if self.by_group:
            groups: dict[str, list[int]] = {}
            for column, name in enumerate(module.parameter_names):
                groups.setdefault(layer_group(name), []).append(column)
            for group, columns in groups.items():
                norms = np.sqrt(np.square(steps.norms[:, columns]).sum(axis=1))
                values[f"train/grad_norm/{group}"] = float(norms.mean())
        return values


def layer_group(name: str) -> str:
    """Name the layer group of a parameter: its block, or the module it belongs to outside the blocks."""
    parts = name.split(".")
    return f"block_{int(parts[1]):02d}" if parts[0] == "blocks" else parts[0]
