"""The kinds of callback that contribute to a record."""

from __future__ import annotations

import lightning.pytorch as pl

from lmx.training.module import LanguageModule
from lmx.training.window import Steps


class Entry(pl.Callback):
    """A callback of lmx that knows which entry of the configuration it is, where it is one."""

    name = ""
    shares_class = False  # with another entry

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps its state: under its class, and its name where that is shared."""
        key = super().state_key
        return f"{key}/{self.name}" if self.shares_class else key


class Measure(Entry):
    """A callback that adds values to the `train` record of the updates since the last one.

    It runs on every rank, at log steps only, on numbers that are already on the host.
    """

    def measure(self, steps: Steps, module: LanguageModule, seconds: float) -> dict[str, float | None]:
        """Return name → value for the given updates, which took `seconds` of training."""
        raise NotImplementedError


class Listener(Entry):
    """A callback that is told of each evaluation."""

    def on_evaluation(self, trainer: pl.Trainer, module: LanguageModule, values: dict[str, float]) -> None:
        """Act on the measures of an evaluation, named `val/…`; on every rank, after they were recorded."""
        raise NotImplementedError
