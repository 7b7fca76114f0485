"""The share of training that waits for data: `python -m benchmarks.loading [TOKENIZER_FOLDER]`.

Trains the default experiment, and with the folder of GPT-2's tokenizer the same with its 50,257 tokens, each
in a process of its own. The clock runs around every request for a batch, as the training loop makes it.
Evaluation is left out; the first steps, which warm up, are not counted.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.results import environment, write

STEPS, WARM = 40, 10
QUIET = ["callbacks=none", "logger=none", f"train.eval_every_steps={STEPS}", "train.eval_at_start=false"]


def main(tokenizer: str | None = None) -> None:
    """Print and write one row a case."""
    cases = {"default": []}
    if tokenizer:
        cases["V = 50,257"] = ["tokenizer=gpt2", f"tokenizer.path={tokenizer}"]
    lines = [
        f"{environment()}; {STEPS - WARM} steps, batches of 8 × 256 tokens\n",
        "| case | step, ms | wait, ms | longest wait, ms | share of training |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, overrides in cases.items():
        waits, total = run(overrides)
        step = 1000 * total / len(waits)
        median, longest = 1000 * statistics.median(waits), 1000 * max(waits)
        share = sum(waits) / total
        lines.append(f"| {name} | {step:.1f} | {median:.2f} | {longest:.2f} | {share:.2%} |")
    page = "\n".join(lines)
    print(page)
    print(write("loading", f"# Waiting for data\n\n{page}"))


def run(overrides: list[str]) -> tuple[list[float], float]:
    """Return the seconds of each wait and of all counted steps together."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.loading", "--run", *QUIET, *overrides]
        command += [f"train.horizon={STEPS}steps", f"paths.outputs={folder}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found["waits"], found["total"]


def train(overrides: list[str]) -> None:
    """Train with a clock around the loader; print what it showed."""
    import os

    from lmx.train import ENVIRONMENT

    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    from lmx.config.compose import compose
    from lmx.training import train

    begun: list[float] = []
    waits: list[float] = []
    plain = _BaseDataLoaderIter.__next__

    def timed(self: Any) -> Any:
        begun.append(time.perf_counter())
        batch = plain(self)
        waits.append(time.perf_counter() - begun[-1])
        return batch

    _BaseDataLoaderIter.__next__ = timed  # type: ignore[method-assign]
    train(compose(overrides))
    # the request for the batch after the last counted one ends the time of all counted steps
    print(json.dumps({"waits": waits[WARM : STEPS - 1], "total": begun[STEPS - 1] - begun[WARM]}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        train(sys.argv[2:])
    else:
        main(*sys.argv[1:])
