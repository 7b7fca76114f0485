"""Which parameters are updated together: by role, so that each role has one rate and one decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

Named = tuple[str, nn.Parameter]


def trainable(model: nn.Module) -> list[Named]:
    """Return (name, parameter) of what is trained, in the model's order; a tied parameter once."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def role(name: str, parameter: nn.Parameter) -> str:
    """Return hidden (a matrix in a block), embedding, head, or vector (norm or bias)."""
    if parameter.ndim < 2:
        return "vector"
    if name.startswith("blocks."):
        return "hidden"
    return "head" if name.startswith("head.") else "embedding"


def decays(role: str, rule: str) -> bool:
    """Whether `optimizer.decay` = `rule` (matrices, hidden, all) decays parameters of this role."""
    return rule == "all" or role == "hidden" or (rule == "matrices" and role != "vector")


def parameter_groups(
    parameters: Iterable[Named],
    lr: float,
    weight_decay: float,
    decay: str,
    lr_multiplier_of: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:
    """Return torch parameter groups, one a role, in the order in which the roles first occur.

    Each has `name` (its role; with "×m" where its rate is multiplied by m), `params` as (name, parameter)
    pairs, `lr` and `base_lr` (the rate that the schedule multiplies), and `weight_decay`.
    """
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in parameters:
        kind = role(name, parameter)
        multiplier = 1.0 if lr_multiplier_of is None else float(lr_multiplier_of(name))
        if (kind, multiplier) not in groups:
            groups[kind, multiplier] = {
                "name": kind if multiplier == 1 else f"{kind} ×{multiplier:g}",
                "params": [],
                "lr": lr * multiplier,
                "base_lr": lr * multiplier,
                "weight_decay": weight_decay if decays(kind, decay) else 0.0,
            }
        groups[kind, multiplier]["params"].append((name, parameter))
    return list(groups.values())
