"""The order of batches: a pure function of (seed, step), whatever the workers and devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from lmx.data.layout import FILLER

ENDLESS = 2**62  # steps of a run that is ended by the clock
EVALUATION = 1  # the stream of orders that evaluations are drawn from


def permutation(seed: int, epoch: int, count: int, stream: int = 0) -> np.ndarray:
    """Return the order of `count` windows in an epoch, (count,) int64; each `stream` has orders of its own.

    Drawn from PCG64's raw output, which numpy promises never to change (NEP 19).
    """
    # numpy takes a trailing 0 as no entropy: stream 0 is that of (seed, epoch)
    return np.argsort(np.random.PCG64((seed, epoch, stream)).random_raw(count), kind="stable")


def batch_of(order: np.ndarray, number: int, size: int) -> np.ndarray:
    """Return batch `number` of an order, filled up with FILLER rows at its end, (size,) int64."""
    rows = order[number * size : (number + 1) * size]
    return np.concatenate([rows, np.full(size - len(rows), FILLER, dtype=np.int64)])


class TrainingOrder(Sampler[np.ndarray]):
    """Yields the windows of each global batch, (batch_size,), from `start_step` to `total_steps`."""

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        steps_per_epoch: int,
        start_step: int = 0,
        total_steps: int | None = None,
    ) -> None:
        """`count` windows; `total_steps` None: without end."""
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.steps_per_epoch = steps_per_epoch
        self.start_step = start_step
        self.total_steps = ENDLESS if total_steps is None else total_steps

    def __len__(self) -> int:
        """Return the number of steps that are left."""
        return max(0, self.total_steps - self.start_step)

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Return the windows of an epoch in their order."""
        return permutation(self.seed, epoch, self.count) if self.shuffle else np.arange(self.count)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield batch after batch."""
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start_step, self.total_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self.epoch_order(epoch)
            yield batch_of(order, step % self.steps_per_epoch, self.batch_size)


class EvaluationOrder(Sampler[np.ndarray]):
    """Yields every window once, in reading order."""

    def __init__(self, count: int, batch_size: int) -> None:
        """`batch_size` counts windows over all devices."""
        self.count = count
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield batch after batch."""
        order = np.arange(self.count)
        for number in range(len(self)):
            yield batch_of(order, number, self.batch_size)


class DrawnOrder(Sampler[np.ndarray]):
    """Yields a few windows in reading order, drawn anew for each step at which it is asked."""

    def __init__(self, count: int, batch_size: int, drawn: int, seed: int, step: Callable[[], int]) -> None:
        """`drawn` of `count` windows; `step` says how many updates were made."""
        self.count = count
        self.batch_size = batch_size
        self.drawn = drawn
        self.seed = seed
        self.step = step

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.drawn // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield every batch of this step's draw."""
        order = np.sort(permutation(self.seed, self.step(), self.count, EVALUATION)[: self.drawn])
        for number in range(len(self)):
            yield batch_of(order, number, self.batch_size)
