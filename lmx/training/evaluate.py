"""Evaluating a finished run on a whole split, outside training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl

from lmx.config import ConfigError, bad_choice
from lmx.data import TokenDataModule, prepare
from lmx.runs import RunFolder
from lmx.training.checkpoints import BEST, LAST, checkpoints, step_of
from lmx.training.hardware import LIGHTNING_PRECISION, choose
from lmx.training.module import LanguageModule
from lmx.training.resume import load_experiment, load_weights
from lmx.training.totals import check_floor, summarise
from lmx.training.trainer import quiet

TEST = "test"  # the split that no choice was made on


def record_test(run: str | Path) -> None:
    """With `train.test_at_end`, evaluate a run's best weights, else its last, and add that to `run.json`."""
    folder = RunFolder.open(run)
    if not load_experiment(folder).train.test_at_end:
        return
    values = evaluate_run(run, TEST, checkpoint=None, batch_size=None, say=lambda text: None)
    weights = checkpoints(folder.checkpoints, BEST) or checkpoints(folder.checkpoints, LAST)
    folder.update_identity(test={"step": step_of(weights[0]), **values})


def evaluate_run(
    run: str | Path,
    split: str,
    *,
    checkpoint: str | None,
    batch_size: int | None,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Return the measures of a run's weights on a whole split, named `<split>/…`.

    Raises CheckpointError or ConfigError when the run or the split is not there.
    """
    folder = RunFolder.open(run)
    experiment = load_experiment(folder)
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"--batch-size: got {batch_size}, allowed: ≥ 1")
    size = batch_size or experiment.train.eval_batch_size
    experiment = dataclasses.replace(  # the whole split, whatever the run itself saw of it
        experiment,
        data=dataclasses.replace(experiment.data, held_out_batch=None),
        train=dataclasses.replace(experiment.train, eval_batch_size=size, eval_windows=None),
    )
    corpus = prepare(experiment.data, experiment.tokenizer, experiment.paths.cache, say)
    if split not in corpus.splits:
        raise ConfigError(bad_choice("--split", split, corpus.splits))
    module = LanguageModule(experiment, None, corpus.fingerprint)
    load_weights(module.model, checkpoint or str(folder.path), say)
    machine = choose(experiment.hardware, None)
    quiet()
    trainer = pl.Trainer(
        accelerator=machine.accelerator,
        devices=1,
        precision=LIGHTNING_PRECISION[machine.precision],  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = TokenDataModule(experiment, corpus)
    trainer.validate(module, dataloaders=data.evaluation_loader(split), verbose=False)
    totals = module.evaluation.collect()
    if split != "train":  # which may be known by heart
        check_floor(totals, corpus.splits[split])
    values = summarise(totals, corpus.splits[split])
    return {name.replace("val/", f"{split}/", 1): value for name, value in values.items()}
