"""A report that can be read while the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl

from lmx.runs import RunFolder
from lmx.training.callbacks.base import Listener
from lmx.training.module import LanguageModule

Render = Callable[[Path], None]

SHARE = 0.02  # of the time since the start, that all rendering together may take
FIRST = 3.0  # seconds that the first one is expected to take


class LiveReport(Listener):
    """Renders the report after an evaluation, as often as SHARE allows; not in the time of training."""

    def __init__(
        self, folder: RunFolder, render: Render, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`render` is given the run folder; it comes from the door, as reports are made above training."""
        self.folder = folder
        self.render = render
        self.clock = clock
        self._started = clock()
        self._spent = 0.0
        self._longest = FIRST

    def on_evaluation(self, trainer: pl.Trainer, module: LanguageModule, values: dict[str, float]) -> None:
        """Render where there is time for it."""
        before = self.clock()
        if trainer.is_global_zero and self._spent + self._longest <= SHARE * (before - self._started):
            self.render(self.folder.path)
            took = self.clock() - before
            self._spent, self._longest = self._spent + took, max(took, self._longest)
