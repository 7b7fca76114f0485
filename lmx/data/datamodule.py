"""Batches for Lightning: one training batch is one rank's share of one update."""

from __future__ import annotations

import multiprocessing
import os
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lmx.config import CheckpointError, Experiment
from lmx.data.corpus import Corpus
from lmx.data.sampler import DrawnOrder, EvaluationOrder, TrainingOrder
from lmx.data.windows import Windows

Batch = dict[str, Any]  # tensors, and `batch_tokens`


def stay_with(parent: int, worker: int) -> None:
    """End a worker whose parent was killed before torch began to watch for that: it would wait for ever."""
    if multiprocessing.get_start_method() == "fork" and os.getppid() != parent:
        os._exit(0)


class Shares(Dataset[Batch]):
    """Takes the windows of a global batch and returns one rank's share of it."""

    def __init__(self, windows: Windows, rank: int, world_size: int) -> None:
        """Rank `rank` of `world_size` takes its part of each global batch."""
        self.windows = windows
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, rows: np.ndarray) -> Batch:
        """Return the batch of docs/architecture.md: (B, T) int64 tensors, and `batch_tokens` of all ranks."""
        share = len(rows) // self.world_size
        own = rows[self.rank * share : (self.rank + 1) * share]
        arrays = self.windows.gather(own)
        batch: Batch = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        batch["batch_tokens"] = int(self.windows.target_counts(rows).sum())
        return batch


class TokenDataModule(pl.LightningDataModule):
    """The loaders of one run.

    The train loader is one long epoch from `start_step` to `total_steps`; position and order are functions of
    the step, so there is nothing to save but what the order is made of.
    """

    def __init__(
        self, experiment: Experiment, corpus: Corpus, *, total_steps: int | None = None, start_step: int = 0
    ) -> None:
        """`total_steps` None: the train loader does not end."""
        super().__init__()
        self.experiment = experiment
        self.corpus = corpus
        self.total_steps = total_steps
        self.start_step = start_step

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return this rank's share of each update that is left."""
        data = self.experiment.data
        windows = self.corpus.splits["train"]
        order = TrainingOrder(
            len(windows),
            self.experiment.train.batch_size,
            seed=self.experiment.seed,
            shuffle=data.shuffle,
            steps_per_epoch=self.corpus.steps_per_epoch(self.experiment.train.batch_size, data.drop_last),
            start_step=self.start_step,
            total_steps=self.total_steps,
        )
        return self._loader(windows, order, data.num_workers)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation split, once."""
        return self.evaluation_loader("validation")

    def evaluation_loader(self, split: str) -> DataLoader[Batch]:
        """Return a whole split, each window once over all ranks; the last batch is filled with empty rows."""
        size = self.experiment.train.eval_batch_size or self.experiment.micro_batch_size
        windows = self.corpus.splits[split]
        size *= self._place()[1]
        order: Sampler[np.ndarray] = EvaluationOrder(len(windows), size)
        drawn = self.experiment.train.eval_windows
        if drawn is not None and drawn < len(windows):
            order = DrawnOrder(len(windows), size, drawn, self.experiment.seed, self._step)
        return self._loader(windows, order, num_workers=0)

    def _loader(self, windows: Windows, order: Sampler[np.ndarray], num_workers: int) -> DataLoader[Batch]:
        return DataLoader(
            Shares(windows, *self._place()),
            sampler=order,
            batch_size=None,  # the sampler's items are whole batches
            num_workers=num_workers,
            worker_init_fn=partial(stay_with, os.getpid()),
            # its own, or starting to iterate would draw from the global one and shift dropout
            generator=torch.Generator().manual_seed(self.experiment.seed),
            pin_memory=torch.cuda.is_available(),
        )

    def _step(self) -> int:
        """Return how many updates were made, which Lightning counts as we do."""
        return 0 if self.trainer is None else self.trainer.global_step

    def _place(self) -> tuple[int, int]:
        """Return (rank, number of ranks)."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return what the order of batches is made of."""
        return {
            "seed": self.experiment.seed,
            "windows": len(self.corpus.splits["train"]),
            "batch_size": self.experiment.train.batch_size,
            "shuffle": self.experiment.data.shuffle,
            "drop_last": self.experiment.data.drop_last,
            "corpus": self.corpus.fingerprint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the order of batches is the saved one.

        Raises CheckpointError naming what differs: the run could not be continued with the same batches.
        """
        differing = [
            f"{name} was {state_dict.get(name)!r}, is {value!r}"
            for name, value in self.state_dict().items()
            if state_dict.get(name) != value
        ]
        if differing:
            raise CheckpointError(f"resume: the order of batches would be another: {'; '.join(differing)}")
