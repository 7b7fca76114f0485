"""Starting from a checkpoint of transformers: `init_from=hf:NAME_OR_FOLDER` brings model and tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lmx.config import ConfigError, Experiment, TokenizerConfig
from lmx.config.overrides import parse
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


def adopt(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """Give an experiment on `hf:` weights their model and, unless one is chosen, their tokenizer.

    Raises ConfigError when an override contradicts the checkpoint, CheckpointError when it cannot be read or
    represented exactly.
    """
    if experiment.init_from is None or not experiment.init_from.startswith(PREFIX):
        return experiment
    source = experiment.init_from.removeprefix(PREFIX)
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
    model = dataclasses.replace(config_from_transformers(source), **kept)
    name = experiment.name
    if name == f"{experiment.data.name}_{experiment.model.name}":
        name = f"{experiment.data.name}_{model.name}"
    tokenizer = experiment.tokenizer
    if not any(key.split(".")[0] == "tokenizer" for key in keys):
        tokenizer = TokenizerConfig(name=model.name, kind="pretrained", path=source)
    adopted = dataclasses.replace(experiment, name=name, model=model, tokenizer=tokenizer)
    problems = list(adopted.problems())
    if problems:
        raise ConfigError("; ".join(problems))
    return adopted
