"""Small runs on a small corpus, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lmx.config.compose import compose
from lmx.runs import RunFolder
from lmx.runs.metrics import read_lines
from lmx.training import Outcome, train
from lmx.training.checkpoints import LAST, checkpoints, read_checkpoint

TINY = (
    *("data=storyworld", "data.stories=60", "data.held_out_stories=10", "tokenizer=byte"),
    *("data.sequence_length=64", "model.hidden_size=32", "model.num_layers=2", "model.num_heads=2"),
    *("model.intermediate_size=64", "hardware=cpu", "hardware.threads=1", "train.batch_size=32"),
    *("train.log_every_steps=3", "train.eval_every_steps=null", "logger=none", "checkpoint.every_minutes=null"),
)
CLOCKS = ("seconds", "speed/", "memory/", "val/seconds")  # what differs between two equal runs


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
        return train(compose(overrides), overrides)

    def resume(self, folder: RunFolder, *more: str) -> Outcome:
        """Continue a run in this process."""
        overrides = [f"resume={folder.path}", *more]
        return train(compose(overrides), overrides)

    def start(self, *more: str, door: str = "lmx.train") -> subprocess.Popen[str]:
        """Start the tiny experiment as a user does."""
        return start(door, *self.overrides(*more))

    def runs(self) -> list[Path]:
        """All run folders."""
        return sorted(path.parent for path in self.outputs.glob("*/*/*") if path.name in ("run.json", "config.yaml"))


def start(door: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a door in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", door, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


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
    """Assert that two runs ended with the same weights, optimizer, random states and records."""
    first, second = last(left), last(right)
    assert equal(first["state_dict"], second["state_dict"])
    assert equal(first["optimizer_states"], second["optimizer_states"])
    assert equal(first["lmx"]["random"], second["lmx"]["random"])
    assert exact(left) == exact(right)
