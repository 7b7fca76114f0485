"""Which classes a configuration may name: an allow-list, because a `_target_` is code that will run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from lmx.config.errors import nearest
from lmx.config.experiment import Experiment
from lmx.config.fields import shown

OPTIMIZERS = (
    "torch.optim.AdamW",
    "torch.optim.Adam",
    "torch.optim.SGD",
    "torch.optim.Adafactor",
    "torch.optim.RMSprop",
    "torch.optim.NAdam",
    "torch.optim.RAdam",
    "lmx.optim.Muon",
    "lmx.optim.Lion",
    "lmx.optim.RMSuon",
    "lmx.optim.AdaRMSuon",
    "lmx.optim.AdaMuon",
)
CALLBACKS = (
    "lmx.training.callbacks.PredictiveIntegrity",
    "lmx.training.callbacks.GradientNorm",
    "lmx.training.callbacks.PeakMemory",
    "lmx.training.callbacks.Throughput",
    "lmx.training.callbacks.Samples",
    "lmx.training.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.DeviceStatsMonitor",
    "lightning.pytorch.callbacks.StochasticWeightAveraging",
)
LOGGERS = (
    "lightning.pytorch.loggers.TensorBoardLogger",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.loggers.WandbLogger",
    "lightning.pytorch.loggers.MLFlowLogger",
)
ALLOW_VARIABLE = "LMX_ALLOW_TARGETS"


def extra_targets() -> tuple[str, ...]:
    """Return the user's own targets: comma-separated dotted names in LMX_ALLOW_TARGETS.

    They come from the environment and not from the configuration: a configuration that could widen
    its own allow-list would have none.
    """
    return tuple(name.strip() for name in os.environ.get(ALLOW_VARIABLE, "").split(",") if name.strip())


def target_problems(experiment: Experiment) -> Iterator[str]:
    """Yield one line for each `_target_` outside the allow-list."""
    optimizer = experiment.optimizer
    yield from _check("optimizer.update", optimizer.update, OPTIMIZERS)
    if optimizer.rest is not None:
        yield from _check("optimizer.rest", optimizer.rest, OPTIMIZERS)
    for group, allowed in (("callbacks", CALLBACKS), ("logger", LOGGERS)):
        for name, entry in getattr(experiment, group).items():
            if entry is None:  # an entry set to null is switched off
                continue
            if not isinstance(entry, dict) or "_target_" not in entry:
                known = nearest(name, [other for other in getattr(experiment, group) if other != name])
                yield f"{group}.{name}: got {shown(entry)}, allowed: null, or _target_ and its options{known}"
                continue
            yield from _check(f"{group}.{name}", entry, allowed)


def _check(key: str, entry: dict[str, Any], allowed: tuple[str, ...]) -> Iterator[str]:
    names = (*allowed, *extra_targets())
    target = entry.get("_target_")
    if target is not None and target not in names:
        yield (
            f"{key}._target_: got {target!r}, allowed: {', '.join(names)}{nearest(str(target), names)} "
            f"(your own: {ALLOW_VARIABLE}=package.Class)"
        )
    yield from _nested(key, entry)


def _nested(key: str, value: Any, depth: int = 0) -> Iterator[str]:
    """A `_target_` below the first level would be instantiated too: none is allowed there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in items:
        if depth and name == "_target_":
            yield f"{key}._target_: got {child!r}, allowed: only at the top of an entry"
        elif isinstance(name, str) and name.startswith("_") and name != "_target_":
            yield f"{key}.{name}: got {shown(child)}, allowed: no key of Hydra's own beside _target_"
        yield from _nested(f"{key}.{name}", child, depth + 1)
