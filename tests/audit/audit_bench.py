"""Small real runs, and copies of their records into which a fault is written."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lmx.config.compose import compose
from lmx.runs import Run, RunFolder, read_run, write_windows
from lmx.training import train

TINY = (
    *("data=storyworld", "data.stories=40", "data.held_out_stories=4", "tokenizer=byte"),
    *("data.sequence_length=32", "model.hidden_size=32", "model.num_layers=2", "model.num_heads=2"),
    *("model.intermediate_size=64", "hardware=cpu", "hardware.threads=1", "train.batch_size=8"),
    *("train.log_every_steps=5", "train.eval_every_steps=10", "logger=none", "checkpoint.every_minutes=null"),
    *("~callbacks.samples", "optimizer.lr=3e-3", "train.horizon=30steps", "train.eval_batch_size=64"),
)
Line = dict[str, Any]


class Bench:
    """Trains each configuration once; hands out its record to be read or spoiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[tuple[str, ...], Run] = {}

    def run(self, *overrides: str) -> Run:
        """Return a fresh copy of the record of a real run."""
        if overrides not in self.runs:
            paths = (f"paths.outputs={self.folder / 'outputs'}", f"paths.cache={self.folder / 'cache'}")
            changed = {text.split("=")[0].lstrip("+~") for text in overrides}
            kept = [text for text in (*TINY, *paths) if text.split("=")[0].lstrip("~") not in changed]
            if "data=text" in overrides:
                kept = [text for text in kept if not text.startswith(("data.stories", "data.held_out"))]
            given = [*kept, *overrides]
            self.runs[overrides] = read_run(train(compose(given), given).folder.path)
        return fresh(self.runs[overrides])

    def empty(self) -> Path:
        """Return a new folder."""
        self._folders = getattr(self, "_folders", 0) + 1
        return self.folder / f"copy_{self._folders}"

    def text(self, name: str, words: int) -> Path:
        """Return a file of documents of random words."""
        path = self.folder / name
        rng = random.Random(words)
        if not path.exists():
            vocabulary = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(300)]
            documents = [" ".join(rng.choices(vocabulary, k=60)) for _ in range(words // 60)]
            path.write_text("\n\n".join(documents))
        return path


def fresh(run: Run) -> Run:
    """Return a copy that may be changed."""
    config, identity, lines = (copy.deepcopy(part) for part in (run.config, run.identity, run.lines))
    return Run(run.folder, config, identity, lines, list(run.samples), False, list(run.problems))


def put(run: Run, key: str, value: Any, *, part: str = "config") -> Run:
    """Set a dotted key of the configuration or, with part="identity", of run.json."""
    place: Any = getattr(run, part)
    *path, last = key.split(".")
    for name in path:
        place = place.setdefault(name, {})
    place[last] = value
    return run


def edit(run: Run, kind: str, change: Callable[[Line], Any]) -> Run:
    """Change every record of a kind."""
    for line in run.lines:
        if line["kind"] == kind:
            change(line)
    return run


def timed(run: Run, seconds: float = 0.02, evaluation: float = 0.5) -> Run:
    """Give every step the same time, so that a planted one stands out."""
    elapsed = 0.0
    for line in run.lines:
        if line["kind"] == "train":
            line["speed/step_seconds"] = seconds
            elapsed += seconds * line["steps"]
        else:
            line["val/seconds"] = evaluation
        line["seconds"] = elapsed
    return run


def with_losses(run: Run, folder: Path, windows: int, mean: str = "tokens") -> Run:
    """Write losses of the first `windows` validation windows, whose mean is the last evaluation's loss.

    The file holds the whole split, as lmx writes it: a window that was not evaluated has no tokens.
    """
    last = run.of_kind("val")[-1]
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 33, windows)
    per_token = last["val/loss"] + rng.normal(0, 0.2, windows) + tokens / 100
    weights = tokens if mean == "tokens" else np.ones(windows)
    per_token *= last["val/loss"] / np.average(per_token, weights=weights)
    missing = (0, run.identity["data"]["splits"]["validation"]["windows"] - windows)
    loss, tokens = np.pad(per_token * tokens, missing), np.pad(tokens, missing)
    (folder / "windows").mkdir(parents=True)
    write_windows(folder / "windows" / "last.npz", loss, tokens, last["step"])
    run.folder = RunFolder(folder)
    return run
