"""A finished run brought back: its weights and tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lmx.data import Tokenizer
from lmx.model import Decoder
from lmx.runs import RunFolder
from lmx.training.resume import load_experiment, load_weights


@dataclass
class Restored:
    """What a run has learned, ready to be used."""

    model: Decoder
    tokenizer: Tokenizer


def restore(run: str | Path, checkpoint: str | Path | None, say: Callable[[str], None]) -> Restored:
    """Load a run's weights, by default its best (or last), or those of one checkpoint file of it.

    Raises CheckpointError when the folder is no run or has no whole checkpoint.
    """
    folder = RunFolder.open(run)
    model = Decoder(load_experiment(folder).model)
    load_weights(model, str(checkpoint or folder.path), say)
    return Restored(model.eval(), Tokenizer.load(folder.tokenizer))
