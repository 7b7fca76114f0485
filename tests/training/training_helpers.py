"""Small runs on a small corpus, and what they leave behind."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from lmx.config import Experiment
from lmx.config.compose import compose
from lmx.runs import RunFolder
from lmx.runs.metrics import read_lines
from lmx.training import Outcome, train
from lmx.training.checkpoints import LAST, checkpoints, read_checkpoint
from lmx.training.module import LanguageModule

TINY = (
    # 111 windows of 32 tokens: an epoch is 14 batches of 8, the last one of 7
    *("data=storyworld", "data.stories=4", "data.held_out_stories=3", "tokenizer=byte"),
    *("data.sequence_length=32", "model.hidden_size=32", "model.num_layers=2", "model.num_heads=2"),
    *("model.intermediate_size=64", "hardware=cpu", "hardware.threads=1", "train.batch_size=8"),
    *(
        "train.log_every_steps=3",
        "train.eval_every_steps=null",
        "logger=none",
        "checkpoint.every_minutes=null",
    ),
    *("callbacks.samples.prompts=[The]", "callbacks.samples.max_new_tokens=4", "optimizer.lr=1e-3"),
)
LONGER = ("tokenizer=bpe", "tokenizer.vocab_size=400", "data.stories=20", "data.sequence_length=96")
Start = Callable[[Callable[[list[str]], None], list[str]], ForkServerProcess]
PACKINGS = {
    "stream": (),
    # rows of unequal numbers of valid targets
    "documents": (*LONGER, "data.packing=documents", "model.attend_within_documents=true"),
    "sentences": (*LONGER, "data.packing=sentences"),
}
# a rate that makes things worse: the best evaluation is not the last
WORSENING = ("train.horizon=8steps", "train.eval_every_steps=2", "schedule=constant", "optimizer.lr=30")
CLOCKS = ("seconds", "speed/", "memory/", "val/seconds")  # what differs between two equal runs


def _composed(*overrides: str) -> Experiment:
    """Compose, once in this process; each caller gets a copy of its own."""
    return copy.deepcopy(_composed_once(overrides))


@cache
def _composed_once(overrides: tuple[str, ...]) -> Experiment:
    return compose(overrides)


class Place:
    """Where runs land, and where the corpus lies prepared."""

    def __init__(self, outputs: Path, cache: Path) -> None:
        self.outputs = outputs
        self.cache = cache

    def overrides(self, *more: str) -> list[str]:
        """The tiny experiment, changed by `more`."""
        paths = (f"paths.outputs={self.outputs}", f"paths.cache={self.cache}")
        changed = {line.split("=")[0].lstrip("+~") for line in more}
        kept = [line for line in (*TINY, *paths) if line.split("=")[0] not in changed]
        return [*kept, *more]

    def train(self, *more: str) -> Outcome:
        """Train the tiny experiment in this process."""
        overrides = self.overrides(*more)
        experiment = _composed(*(line for line in overrides if not line.startswith("paths.")))
        lines = (line.removeprefix("paths.") for line in overrides if line.startswith("paths."))
        given = dict(line.split("=", 1) for line in lines)
        paths = dataclasses.replace(experiment.paths, **given)
        return train(dataclasses.replace(experiment, paths=paths), overrides)

    def resume(self, folder: RunFolder, *more: str) -> Outcome:
        """Continue a run in this process."""
        experiment = dataclasses.replace(_composed("resume=RUN", *more), resume=str(folder.path))
        return train(experiment, [f"resume={folder.path}", *more])

    def runs(self) -> list[Path]:
        """All folders below an experiment's."""
        return sorted(path for path in self.outputs.glob("*/*") if path.is_dir())


def door(arguments: list[str]) -> None:
    """Be `python -m lmx.train`, for a process that has imported it already."""
    from lmx.train import main

    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process of its own
    sys.exit(main(arguments))


def wait_for_step(outputs: Path, step: int, alive: Callable[[], bool]) -> Path:
    """Wait until the run below `outputs` has recorded a step; return its folder."""
    while alive():
        for path in outputs.glob("*/*/metrics.jsonl"):
            if any(line["step"] >= step for line in read_lines(path)[0]):
                return path.parent
        time.sleep(0.02)
    raise AssertionError("the run ended before")


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way that a CUDA device takes; fused optimizers keep their word on the CPU too."""

    class OnGpu(torch.Tensor):
        is_cuda = True  # type: ignore[assignment]

    norm = torch.linalg.vector_norm

    def vector_norm(*arguments: Any, **options: Any) -> Any:
        return norm(*arguments, **options).as_subclass(OnGpu)

    monkeypatch.setattr(torch.linalg, "vector_norm", vector_norm)


def signal_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal once, in the middle of a step."""
    accumulate = LanguageModule._accumulate

    def send(module: LanguageModule, batch: Any) -> Any:
        if module.step == step - 1:
            os.kill(os.getpid(), number)
        return accumulate(module, batch)

    monkeypatch.setattr(LanguageModule, "_accumulate", send)


def signal_in_evaluation(monkeypatch: pytest.MonkeyPatch, step: int, batch: int = 1) -> None:
    """Send this process SIGTERM in a batch of the evaluation at `step`, once."""
    validate = LanguageModule.validation_step
    sent: list[int] = []

    def send(module: LanguageModule, rows: Any, index: int) -> None:
        if (module.step, index) == (step, batch) and not sent:
            sent.append(index)
            os.kill(os.getpid(), signal.SIGTERM)
        validate(module, rows, index)

    monkeypatch.setattr(LanguageModule, "validation_step", send)


def lines(folder: RunFolder, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of a run."""
    records, problems = read_lines(folder.metrics)
    assert not problems
    return [line for line in records if kind in (None, line["kind"])]


def exact(folder: RunFolder) -> list[dict[str, Any]]:
    """The records without what a clock or the memory measured."""
    return [
        {name: value for name, value in line.items() if not name.startswith(CLOCKS)} for line in lines(folder)
    ]


def last(folder: RunFolder) -> dict[str, Any]:
    """The newest checkpoint."""
    return read_checkpoint(checkpoints(folder.checkpoints, LAST)[0])


def equal(left: Any, right: Any) -> bool:
    """Whether two nests of tensors and values are the same to the bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


def same_end(left: RunFolder, right: RunFolder) -> None:
    """Assert that two runs ended with the same weights, optimizer, random states, records and windows."""
    first, second = last(left), last(right)
    assert equal(first["state_dict"], second["state_dict"])
    assert equal(first["optimizer_states"], second["optimizer_states"])
    assert equal(first["lmx"]["random"], second["lmx"]["random"])
    assert exact(left) == exact(right)
    files = [{path.name: path.read_bytes() for path in folder.windows.iterdir()} for folder in (left, right)]
    assert files[0] == files[1]
