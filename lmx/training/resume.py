"""Which run to continue, or whose weights to start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from lmx.config import CheckpointError, ConfigError, Experiment
from lmx.config.overrides import parse
from lmx.config.validate import to_dict, validate
from lmx.model.from_transformers import from_transformers
from lmx.runs import MetricsLog, RunFolder, config_fingerprint, newest_unfinished
from lmx.training.checkpoints import BEST, LAST, newest_good, read_checkpoint
from lmx.training.module import CHECKPOINT_KEY
from lmx.training.pretrained import PREFIX, renames, weights_folder

Say = Callable[[str], None]
# what may differ from the run that is continued; everything else is the experiment itself
CHANGEABLE = ("train.horizon", "hardware", "checkpoint", "logger", "paths", "resume")


def load_experiment(folder: RunFolder) -> Experiment:
    """Return the experiment that a run folder holds. Raises CheckpointError when its file is damaged."""
    try:
        config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise CheckpointError(f"{folder.config}: damaged (not a mapping)")
        return validate(config)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{folder.config}: cannot be read ({error})") from error
    except ConfigError as error:
        raise CheckpointError(f"{folder.config}: {error}") from error


def find(experiment: Experiment, overrides: Sequence[str], say: Say) -> tuple[Experiment, RunFolder | None]:
    """Return the experiment to run and, where `resume` names a run, its folder.

    `resume=auto` continues the newest unfinished run of this very configuration, and starts a new one where
    there is none. A run that is continued brings its configuration; with `resume=RUN` overrides may change
    CHANGEABLE alone.
    A run that went on with such a change is found by its path alone.
    """
    if experiment.resume is None:
        return experiment, None
    if experiment.resume == "auto":
        name = None if renames(experiment) else experiment.name
        path = newest_unfinished(experiment.paths.outputs, name, fingerprint(experiment))
        say(f"resume=auto: {path or 'no unfinished run of this configuration, starting one'}")
        if path is None:
            return experiment, None
        folder = RunFolder.open(path)
        # its own configuration: the model of `hf:` weights is in it, and they are not needed again
        saved = load_experiment(folder)
        return dataclasses.replace(saved, paths=experiment.paths, resume=experiment.resume), folder
    folder = RunFolder.open(experiment.resume)
    return _with_changes(load_experiment(folder), experiment, overrides), folder


def missing_records(folder: RunFolder, checkpoint: dict[str, Any]) -> list[str]:
    """Return a line for each log that is shorter than when the checkpoint was written."""
    step, states = checkpoint[CHECKPOINT_KEY]["step"], checkpoint["callbacks"]
    missing = {}
    for log, callback in ((folder.metrics, "Recorder"), (folder.sample_log, "Samples")):
        # where there are several of a class, each has its name after the class's
        positions = [state["position"] for key, state in states.items() if key.split("/")[0] == callback]
        missing[log.name] = MetricsLog(log).missing(max(positions, default=0))
    return [
        f"{name}: {count:,} bytes of the records up to step {step} were gone when the run went on from there"
        for name, count in missing.items()
        if count
    ]


def fingerprint(experiment: Experiment) -> str:
    """Return what two runs of the same computation share."""
    return config_fingerprint(to_dict(experiment))


def check_source(source: str) -> None:
    """Raise CheckpointError when there is no run and no checkpoint file at an `init_from`."""
    if not source.startswith(PREFIX) and not Path(source).expanduser().is_file():
        RunFolder.open(source)


def load_weights(model: nn.Module, source: str, say: Say) -> None:
    """Start `model` from a run folder (its best weights, else its last), a checkpoint file or `hf:` source.

    Raises CheckpointError naming each parameter that is missing, left over or of another shape.
    """
    if source.startswith(PREFIX):  # `adopt` has given the model its configuration
        model.load_state_dict(from_transformers(weights_folder(source.removeprefix(PREFIX))).state_dict())
        return
    path = Path(source).expanduser()
    named = path.suffix == ".ckpt" or path.is_file()
    checkpoint = read_checkpoint(path) if named else _weights_of(RunFolder.open(path), say)
    state = {
        name.removeprefix("model."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in state]
    problems += [f"unknown {name}" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)}, the model's {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit the model: {'; '.join(problems[:6])}")
    model.load_state_dict(state)


def _weights_of(folder: RunFolder, say: Say) -> dict[str, Any]:
    found = newest_good(folder.checkpoints, BEST, say) or newest_good(folder.checkpoints, LAST, say)
    if found is None:
        raise CheckpointError(f"{folder.path}: no whole checkpoint in it")
    path, checkpoint = found
    say(f"weights from {path}, step {checkpoint[CHECKPOINT_KEY]['step']}")
    return checkpoint


def _with_changes(saved: Experiment, composed: Experiment, overrides: Sequence[str]) -> Experiment:
    config, new = to_dict(saved), to_dict(composed)
    for key in dict.fromkeys(override.key_or_group for override in parse(overrides)):
        if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in CHANGEABLE):
            raise ConfigError(
                f"{key}: cannot differ in a resumed run, allowed: {', '.join(CHANGEABLE)} "
                "(init_from=RUN starts a new run from its weights)"
            )
        _copy(new, config, key.split("."))
    return validate(config)


def _copy(source: dict[str, Any], target: dict[str, Any], path: list[str]) -> None:
    """Make `target` hold at `path` what `source` does, or nothing where that has nothing."""
    for part in path[:-1]:
        source, target = source.get(part, {}), target.setdefault(part, {})
    if path[-1] in source:
        target[path[-1]] = source[path[-1]]
    else:
        target.pop(path[-1], None)
