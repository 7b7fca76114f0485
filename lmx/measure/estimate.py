"""What an experiment will take, from its configuration and from the prepared corpus where there is one.

torch is imported only to measure the arithmetic of this machine.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmx.config import ConfigError, DataError, Experiment
from lmx.config.machine import HardwareConfig
from lmx.measure.counts import ParameterCounts, parameter_counts, training_flops
from lmx.measure.length import updates

BYTE_VOCABULARY = 257  # 256 bytes and the end of text


@dataclass(frozen=True)
class Rate:
    """Arithmetic of one device."""

    flops: float  # a second
    source: str


@dataclass(frozen=True)
class Estimate:
    """The size and length of an experiment; None where only the prepared corpus or the run will tell."""

    experiment: Experiment  # with the vocabulary and context that training will give its model
    corpus: dict[str, Any] | None  # the facts of the prepared corpus
    parameters: ParameterCounts
    tokens_per_update: int
    updates_per_epoch: int | None
    steps: int | None
    flops_per_token: float  # of training

    @property
    def tokens(self) -> int | None:
        """Tokens trained on."""
        return None if self.steps is None else self.steps * self.tokens_per_update

    @property
    def flops(self) -> float | None:
        """FLOPs of training, without evaluation."""
        return None if self.tokens is None else self.tokens * self.flops_per_token


def estimate(experiment: Experiment) -> Estimate:
    """Return what an experiment will take.

    Raises ConfigError where the vocabulary is not known, or schedule and length do not fit together, and
    DataError where the corpus or the tokenizer's file is damaged.
    """
    from lmx.data.manifest import find

    corpus = find(experiment.data, experiment.tokenizer, experiment.paths.cache)
    vocabulary = experiment.model.vocab_size or _vocabulary(experiment, corpus)
    model = dataclasses.replace(
        experiment.model, vocab_size=vocabulary, context_length=experiment.context_length
    )
    experiment = dataclasses.replace(experiment, model=model)
    per_update = experiment.train.batch_size * experiment.data.sequence_length
    per_epoch = None if corpus is None else _updates_per_epoch(experiment, corpus)
    return Estimate(
        experiment,
        corpus,
        parameter_counts(model),
        per_update,
        per_epoch,
        _steps(experiment, per_update, per_epoch),
        training_flops(experiment),
    )


def half_precision(hardware: HardwareConfig) -> tuple[bool, str]:
    """Return whether products will be in half precision, and how that is known."""
    if hardware.precision != "auto":
        return hardware.precision != "fp32", hardware.precision
    if hardware.accelerator == "gpu":
        return True, "half precision, as precision=auto takes on a GPU"
    return False, "as if precision=auto took fp32"


def measured_rate(hardware: HardwareConfig, seconds: float = 0.5) -> Rate:
    """Multiply matrices for `seconds` on the device that would train, in its precision."""
    import torch

    on_gpu = hardware.accelerator != "cpu" and torch.cuda.is_available()
    half = half_precision(hardware)[0] or (on_gpu and hardware.precision == "auto")
    device = torch.device("cuda" if on_gpu else "cpu")
    size = 8192 if on_gpu else 1024
    left = torch.ones(size, size, device=device, dtype=torch.bfloat16 if half else torch.float32)
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    left @ left  # the first product also sets the library up
    wait()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        left @ left
        count += 1
        wait()
    flops = 2 * size**3 * count / (time.perf_counter() - start)
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name() if on_gpu else f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    return Rate(flops, f"measured: {name}, {'bf16' if half else 'fp32'}")


def _steps(experiment: Experiment, per_update: int, per_epoch: int | None) -> int | None:
    """Return the number of updates, None where only the run will tell; refuse what cannot be followed."""
    from lmx.optim import schedule_problems

    amount, unit = experiment.train.horizon_amount
    steps = updates(amount, unit, per_update, per_epoch)
    if steps is not None or unit == "hours":
        problems = list(schedule_problems(experiment.schedule, steps))
        if problems:
            raise ConfigError("; ".join(problems))
    return steps


def _updates_per_epoch(experiment: Experiment, corpus: dict[str, Any]) -> int:
    windows, batch = int(corpus["splits"]["train"]["windows"]), experiment.train.batch_size
    return windows // batch if experiment.data.drop_last else -(-windows // batch)


def _vocabulary(experiment: Experiment, corpus: dict[str, Any] | None) -> int:
    tokenizer = experiment.tokenizer
    if corpus is not None:
        return int(corpus["tokenizer"]["vocab_size"])
    if tokenizer.kind == "byte":
        return BYTE_VOCABULARY
    if tokenizer.kind == "bpe":
        assert tokenizer.vocab_size is not None
        return tokenizer.vocab_size
    file = Path(str(tokenizer.path)).expanduser() / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(
            f"model.vocab_size: got nothing, and tokenizer.path={tokenizer.path!r} would have to be fetched; "
            "give model.vocab_size=N, or a local folder with tokenizer.json"
        )
    return _vocabulary_of_file(file)


def _vocabulary_of_file(file: Path) -> int:
    """Return the largest id of a tokenizers file, plus one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        added = [token["id"] for token in content.get("added_tokens") or []]
        return int(max([*ids, *added])) + 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not a tokenizer: {type(error).__name__}: {error}") from error
