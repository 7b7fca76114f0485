"""Hyper-parameters where TensorBoard's HPARAMS page shows them, beside the measures they led to."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from lmx.config.validate import to_dict
from lmx.training.callbacks.base import Listener
from lmx.training.module import LanguageModule

# what a comparison is usually over; everything else stands in config.yaml
KEYS = (
    "seed",
    "model.name",
    "model.hidden_size",
    "model.num_layers",
    "model.num_heads",
    "optimizer.name",
    "optimizer.lr",
    "optimizer.weight_decay",
    "schedule.name",
    "objective.name",
    "train.batch_size",
    "train.horizon",
    "data.name",
    "data.sequence_length",
    "tokenizer.name",
    "hardware.precision",
)
MEASURES = ("val/loss", "val/perplexity", "val/bits_per_byte")


class HyperParameters(Listener):
    """Registers the hyper-parameters at the first evaluation and refreshes their measures at each."""

    def __init__(self) -> None:
        self._registered = False

    def on_evaluation(self, trainer: Any, module: LanguageModule, values: dict[str, float]) -> None:
        """Log `hp/…` beside the hyper-parameters."""
        measures = {f"hp/{name.partition('/')[2]}": values[name] for name in MEASURES}
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                continue
            if self._registered:
                logger.log_metrics(measures, step=module.step)
            else:
                logger.log_hyperparams(flat(to_dict(module.experiment)), measures, module.step)
        self._registered = True


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values of KEYS from a nested configuration."""
    found = {}
    for key in KEYS:
        value: Any = config
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found
