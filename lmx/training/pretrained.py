"""Starting from a checkpoint of transformers: `init_from=hf:NAME_OR_FOLDER` brings model and tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from lmx.config import CheckpointError, ConfigError, Experiment, TokenizerConfig
from lmx.config.overrides import parse
from lmx.data.weights import SECONDS, fetch_weights
from lmx.model.from_transformers import config_from_transformers

PREFIX = "hf:"
# what a checkpoint does not decide: regularisation and memory
FREE = (
    "embedding_dropout",
    "attention_dropout",
    "residual_dropout",
    "mlp_dropout",
    "activation_checkpointing",
)


def weights_folder(source: str, seconds: float = SECONDS) -> Path:
    """Return the folder of `hf:` weights, given without that prefix: a folder, or a name on the Hub.

    Raises CheckpointError when there is neither, or the Hub sends nothing for `seconds`.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise CheckpointError(
            f"init_from: hf:{source}: no such folder; allowed: a folder, or namespace/name on the Hub"
        )
    return fetch_weights(source, seconds)


def renames(experiment: Experiment) -> bool:
    """Whether `adopt` gives the experiment another name: that of the model it brings."""
    source, composed = experiment.init_from or "", f"{experiment.data.name}_{experiment.model.name}"
    return source.startswith(PREFIX) and experiment.name == composed


def adopt(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """Give an experiment on `hf:` weights their model and, unless one is chosen, their tokenizer.

    Raises ConfigError when an override contradicts the checkpoint, CheckpointError when it cannot be read or
    represented exactly.
    """
    if experiment.init_from is None or not experiment.init_from.startswith(PREFIX):
        return experiment
    source = experiment.init_from.removeprefix(PREFIX)
    folder = weights_folder(source, experiment.data.timeout_seconds)
    keys = {item.key_or_group for item in parse(overrides)}
    kept = {name: getattr(experiment.model, name) for name in FREE if f"model.{name}" in keys}
    clashing = sorted(
        key for key in keys if key.split(".")[0] == "model" and key.removeprefix("model.") not in FREE
    )
    if clashing:
        raise ConfigError(
            f"{clashing[0]}: has no effect with init_from={experiment.init_from}, which brings its own "
            f"model; allowed: {', '.join(f'model.{name}' for name in FREE)}"
        )
    model = dataclasses.replace(config_from_transformers(folder), **kept)
    name = f"{experiment.data.name}_{model.name}" if renames(experiment) else experiment.name
    tokenizer = experiment.tokenizer
    if not any(key.split(".")[0] == "tokenizer" for key in keys):
        tokenizer = TokenizerConfig(name=model.name, kind="pretrained", path=source)
    adopted = dataclasses.replace(experiment, name=name, model=model, tokenizer=tokenizer)
    problems = list(adopted.problems())
    if problems:
        raise ConfigError("; ".join(problems))
    return adopted
