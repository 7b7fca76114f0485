"""From the configuration to the one optimizer of a run."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lmx.config import ConfigError, OptimizerConfig
from lmx.optim.groups import Named, parameter_groups, role, trainable
from lmx.optim.muon import Muon
from lmx.optim.options import check_options, fits
from lmx.optim.paired import PairedOptimizer
from lmx.optim.rmsuon import OrthogonalAdam

Multiplier = Callable[[str], float]


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, lr_multiplier_of: Multiplier | None = None
) -> Optimizer:
    """Return the optimizer of `model`: one class for all parameters, or two behind one object.

    With `config.rest`, `config.update` takes the hidden matrices (two or more dimensions, inside `blocks.`)
    and `config.rest` everything else, with its own rate. `config.decay` says which parameters decay, by
    `config.weight_decay` (for the rest: by `rest.weight_decay` where it is given). What decay does is the
    class's affair: AdamW, Lion, Muon and Adafactor shrink the weights by rate × decay; Adam, SGD and RMSprop
    add decay × weight to the gradient, as do NAdam and RAdam unless `decoupled_weight_decay` is set.

    `lr_multiplier_of` gives the factor on the rate of a parameter by its name (muP's table for Adam). Muon
    ignores it, because the size of its update does not grow with the width.

    Parameter groups carry `name`, `param_names` and `base_lr`, the rate that the schedule multiplies.

    Raises ConfigError for an unknown or mistyped option, a value that the class refuses, and a class that
    does not fit the parameters. Whether a `_target_` may be named at all is checked by `lmx.config.targets`.
    """
    parameters = trainable(model)
    if config.rest is None:
        return _build("optimizer.update", config, config.update, parameters, lr_multiplier_of)
    hidden = [item for item in parameters if role(*item) == "hidden"]
    others = [item for item in parameters if role(*item) != "hidden"]
    if not hidden:
        raise ConfigError(
            f"optimizer.update: got {config.update['_target_']} for hidden matrices, which the model lacks, "
            "allowed: model.num_layers ≥ 1, or an optimizer without rest"
        )
    return PairedOptimizer(
        _build("optimizer.update", config, config.update, hidden, lr_multiplier_of),
        _build("optimizer.rest", config, config.rest, others, lr_multiplier_of),
    )


def _build(
    key: str,
    config: OptimizerConfig,
    entry: dict[str, Any],
    parameters: Sequence[Named],
    multiplier: Multiplier | None,
) -> Optimizer:
    target = entry["_target_"]
    kind = _resolve(key, target)
    options = {name: value for name, value in entry.items() if name != "_target_"}
    lr, decay = config.lr, config.weight_decay
    if key == "optimizer.rest":
        lr = _number(f"{key}.lr", options.pop("lr"))
        decay = _number(f"{key}.weight_decay", options.pop("weight_decay", decay))
    elif "weight_decay" in options:
        raise ConfigError(f"{key}.weight_decay: the decay stands in optimizer.weight_decay")
    if decay and "weight_decay" not in inspect.signature(kind).parameters:
        raise ConfigError(
            f"optimizer.weight_decay: got {decay}, allowed with {target}: 0, for it has no decay"
        )
    options = check_options(key, target, kind, options)
    multiplier = None if issubclass(kind, Muon) else multiplier
    groups = parameter_groups(parameters, lr, decay, config.decay, multiplier)
    unknown = issubclass(kind, torch.optim.SGD | OrthogonalAdam)  # how their rates go with the width
    if unknown and any(group["base_lr"] != lr for group in groups):
        raise ConfigError(
            f"{key}._target_: got {target} with muP's rates, which are Adam's; allowed: AdamW, Muon …"
        )
    try:
        optimizer: Optimizer = kind(groups, lr=lr, **options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{key}: {target} refuses its options: {_one_line(error)}") from error
    return optimizer


def _resolve(key: str, target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{key}._target_: got {target!r}, which has no import: {_one_line(error)}"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ConfigError(f"{key}._target_: got {target!r}, allowed: a class of torch.optim.Optimizer")
    return kind


def _number(key: str, value: Any) -> float:
    if not fits(value, float) or not (value >= 0 and math.isfinite(value)):
        raise ConfigError(f"{key}: got {value!r}, allowed: a number ≥ 0")
    return float(value)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
