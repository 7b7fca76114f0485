"""The losses of the first 50 steps of the default run, kept in golden_curve.json.

`python tests/reliability/golden.py` computes them anew and writes the file. That is right only when a change
is meant to alter what the default run computes (model, initialisation, data, order, optimizer, schedule or
objective); the change that writes it says what altered the curve, and why. A faster way to compute the same
thing leaves the curve as it is, to rounding.

Everything is the default's but what does not enter the loss (evaluations, samples, loggers, checkpoints),
fp32 on one thread, so that machines agree, and 500 stories in place of 20,000, which would take longer to
prepare than to train on. Fewer stories have fewer windows, so their order is not that of the default corpus,
but it is drawn in the same way.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

STEPS = 50
FILE = Path(__file__).with_name("golden_curve.json")
OVERRIDES = (
    *("data.stories=500", "train.log_every_steps=1", "train.eval_at_start=false", "callbacks=none"),
    *("logger=none", "checkpoint.best=null", "hardware=cpu", "hardware.precision=fp32"),
    "hardware.threads=1",
)


def curve(folder: Path) -> list[float]:
    """Train below `folder`, stopped after STEPS of the default's steps; return the loss of each."""
    from lmx.config.compose import compose
    from lmx.runs.metrics import read_lines
    from lmx.training import train
    from lmx.training.module import LanguageModule

    accumulate = LanguageModule._accumulate

    def stop(module: LanguageModule, batch: Any) -> Any:
        if module.step == STEPS - 1:
            os.kill(os.getpid(), signal.SIGTERM)  # heeded at the end of the step
        return accumulate(module, batch)

    overrides = [*OVERRIDES, f"paths.outputs={folder / 'outputs'}", f"paths.cache={folder / 'cache'}"]
    with patch.object(LanguageModule, "_accumulate", stop):
        outcome = train(compose(overrides), overrides)
    return [line["train/loss"] for line in read_lines(outcome.folder.metrics)[0]]


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as place:
        losses = curve(Path(place))
    FILE.write_text(json.dumps([round(loss, 7) for loss in losses], indent=0) + "\n")
    print(f"{FILE}: {len(losses)} losses, from {losses[0]:.4f} to {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
