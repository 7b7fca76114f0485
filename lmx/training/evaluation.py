"""When evaluations happen."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from lmx.training.module import LanguageModule


class EvaluationStopped(Exception):
    """A signal came between two batches of an evaluation."""


class Evaluation(pl.Callback):
    """Evaluates at step 0, every so many updates, and after the last.

    An evaluation that a signal broke off leaves no record; the resumed run makes it before its first update.
    """

    def __init__(self, every: int, at_start: bool) -> None:
        """`every`: updates between evaluations; `at_start`: also before the first update."""
        self.every = every
        self.at_start = at_start
        self._evaluated: int | None = None
        self._owed = False  # one was broken off

    def state_dict(self) -> dict[str, Any]:
        """Return the step last evaluated, and whether an evaluation was broken off since."""
        return {"evaluated": self._evaluated, "owed": self._owed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self._evaluated, self._owed = state_dict["evaluated"], state_dict["owed"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Evaluate the untrained model, the reference of what follows; signals are heeded by now.

        In a resumed run: make up for the evaluation that was broken off, or that its new end asks for.
        """
        first = pl_module.step == 0 and self.at_start
        if first or self._owed or pl_module.step == pl_module.total_steps:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate when it is due; the last step here, so that no checkpoint of it lacks its evaluation."""
        if pl_module.step % self.every == 0 or pl_module.step == pl_module.total_steps:
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Evaluate where an early end left the run; an interrupted one goes on later."""
        if not pl_module.interrupted:
            self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: pl.Trainer, module: LanguageModule) -> None:
        if module.step == self._evaluated:
            return
        module.settle()
        before, self._evaluated = self._evaluated, module.step
        try:
            with module.stopwatch.paused():
                _validate(trainer)
            self._owed = False
        except EvaluationStopped:
            self._evaluated, self._owed = before, True


def _validate(trainer: pl.Trainer) -> None:
    """Run Lightning's validation loop from within training, as its own epoch loop does."""
    connector = trainer._logger_connector
    first = connector._first_loop_iter
    trainer.validating = True
    try:
        trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.training = True
        connector._first_loop_iter = first
