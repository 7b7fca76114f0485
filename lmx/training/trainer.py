"""Assembling Lightning's Trainer from the configuration."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lmx.config import ConfigError, Experiment, nearest
from lmx.data import Corpus
from lmx.runs import MetricsLog, RunFolder
from lmx.training.callbacks import Entry, Samples
from lmx.training.checkpoints import Checkpoints, VerifiedCheckpointIO, step_of
from lmx.training.distributed import LaunchedDDP
from lmx.training.ending import Ending, Signals
from lmx.training.evaluation import Evaluation
from lmx.training.hardware import LIGHTNING_PRECISION, Machine
from lmx.training.horizon import evaluation_interval, max_hours
from lmx.training.hyperparameters import HyperParameters
from lmx.training.loggers import Loggers
from lmx.training.progress import Progress
from lmx.training.recorder import Recorder
from lmx.training.window_losses import WindowLosses

UNSURPRISING = (
    "does not have many workers",  # data.num_workers is the user's choice; a batch takes microseconds
    "isinstance.treespec",  # Lightning's own use of a deprecated call
    "It is recommended to use .*sync_dist=True",  # evaluations are summed over ranks before they are logged
    "Experiment logs directory .* is not empty",  # a resumed run tells its CSV logger everything again
)
TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"


def build_entry(key: str, entry: dict[str, Any], kind: type[Any], **defaults: Any) -> Any:
    """Build the object of a `_target_` entry that the allow-list has passed; its class must be a `kind`.

    `defaults` fill options that the class has and the entry does not give. Raises ConfigError for another
    class, naming an option the class does not know, or what it refused.
    """
    target = entry["_target_"]
    options = {name: value for name, value in entry.items() if name != "_target_"}
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}._target_: got {target!r}, which cannot be imported ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise ConfigError(
            f"{key}._target_: got {target!r}, allowed: a subclass of Lightning's {kind.__name__}"
        )
    parameters = inspect.signature(cls).parameters
    names = [p for p, spec in parameters.items() if spec.kind is not spec.VAR_KEYWORD]
    open_ended = len(names) < len(parameters)
    for option in options:
        if option not in names and not open_ended:
            hint = nearest(option, names) or f"; allowed: {', '.join(names) or 'no options'}"
            raise ConfigError(f"{key}.{option}: unknown option of {target}{hint}")
    filled = {option: value for option, value in defaults.items() if option in names}
    try:
        return cls(**{**filled, **options})
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key}: {target} needs a package that is not installed: {error}") from error
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(f"{key}: {target} refused its options: {error}") from error


def build_callbacks(experiment: Experiment) -> list[pl.Callback]:
    """Build the callbacks of the configuration; an entry set to null is switched off."""
    built = {
        name: build_entry(f"callbacks.{name}", entry, pl.Callback)
        for name, entry in experiment.callbacks.items()
        if entry is not None
    }
    classes = Counter(map(type, built.values()))
    for name, callback in built.items():
        shares = classes[type(callback)] > 1
        if isinstance(callback, Entry):
            callback.name, callback.shares_class = name, shares
        elif shares and type(callback).state_dict is not pl.Callback.state_dict:
            kind = type(callback).__name__  # a checkpoint keeps its state under this name
            raise ConfigError(f"callbacks.{name}: got one {kind} more, allowed: one, for it keeps a state")
    return list(built.values())


def build_loggers(experiment: Experiment, folder: Path, first: int = 0) -> list[Logger]:
    """Build the loggers of the configuration, each writing below `folder`.

    `first` is the first step that they are told of: TensorBoard hides what it was told of it and later ones.
    """
    place = {"save_dir": str(folder), "name": "", "default_hp_metric": False}
    purged = {"purge_step": first}  # which the logger hands on, so that its signature does not show it
    return [
        build_entry(
            f"logger.{name}",
            {**purged, **entry} if entry["_target_"] == TENSORBOARD else entry,
            Logger,
            version=name,
            **place,
        )
        for name, entry in experiment.logger.items()
        if entry is not None
    ]


def check_loggers(experiment: Experiment) -> None:
    """Raise ConfigError for a logger that cannot be built: what it refuses is known only when it is."""
    with tempfile.TemporaryDirectory() as place:
        build_loggers(experiment, Path(place))


def assemble(
    experiment: Experiment,
    corpus: Corpus,
    folder: RunFolder,
    machine: Machine,
    callbacks: list[pl.Callback],
    signals: Signals,
    checkpoint: Path | None,
) -> pl.Trainer:
    """Return the Trainer of one run, which goes on from `checkpoint` where there is one.

    The order of the callbacks is the order of a step: measures and callbacks of others, record, evaluation,
    checkpoint, ending.
    """
    quiet()
    # deterministic mode would fill every new tensor first; nothing here reads what it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    train, kept = experiment.train, experiment.checkpoint
    per_epoch = corpus.steps_per_epoch(train.batch_size, experiment.data.drop_last)
    for callback in callbacks:
        if isinstance(callback, Samples):
            callback.write_to(folder)
    checkpoints = Checkpoints(
        folder.checkpoints, kept.every_steps, kept.every_minutes, kept.keep_last, kept.best, kept.best_mode
    )
    log = MetricsLog(folder.metrics)
    first = 0 if checkpoint is None else step_of(checkpoint) + 1
    return pl.Trainer(
        accelerator=machine.accelerator,
        devices=machine.devices,
        strategy=_strategy(experiment, machine, folder),
        precision=LIGHTNING_PRECISION[machine.precision],  # type: ignore[arg-type]
        max_epochs=1,  # Lightning's one epoch is the whole run; ours are counted in steps
        deterministic=experiment.hardware.deterministic,
        logger=build_loggers(experiment, folder.path, first) or False,
        callbacks=[
            *callbacks,
            Progress(),
            HyperParameters(),
            Recorder(log, corpus.splits["validation"], train.log_every_steps, per_epoch),
            Loggers(log),
            Evaluation(evaluation_interval(experiment, per_epoch), train.eval_at_start),
            checkpoints,
            WindowLosses(folder, checkpoints, len(corpus.splits["validation"])),
            Ending(signals, max_hours(experiment)),
        ],
        plugins=[VerifiedCheckpointIO()],
        check_val_every_n_epoch=None,
        val_check_interval=sys.maxsize,  # the Evaluation callback decides
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.path,
    )


def quiet() -> None:
    """Silence what Lightning says about choices that lmx has made and told of itself."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in UNSURPRISING:
        warnings.filterwarnings("ignore", f".*{message}")


def _strategy(experiment: Experiment, machine: Machine, folder: RunFolder) -> Strategy | str:
    if experiment.hardware.strategy != "ddp":
        return "auto"
    return LaunchedDDP(folder, backend="nccl" if machine.accelerator == "gpu" else "gloo")
