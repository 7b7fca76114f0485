"""What was measured since the last record: kept on the device, read once, summed over ranks once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmx.objective import TokenSums

Array = NDArray[np.float64]
SUMS = ("nats", "entropy", "correct", "correct_top5", "confidence", "cosine")


@dataclass(frozen=True)
class Steps:
    """Measurements of k consecutive updates, over all ranks."""

    sums: dict[str, Array]  # name → (k,): sums over the valid tokens of each update
    tokens: Array  # (k,): valid tokens of each update
    norms: Array  # (k, P): gradient L2 norm of each parameter, before clipping
    skipped: Array  # (k,): 1 where the update was left out as a spike

    @property
    def count(self) -> int:
        """Number of updates."""
        return len(self.tokens)

    def mean(self, name: str) -> float:
        """Token-weighted mean of a sum over all updates."""
        return float(self.sums[name].sum() / max(self.tokens.sum(), 1.0))

    def per_token(self, name: str) -> Array:
        """Mean over the tokens of each update, (k,)."""
        return self.sums[name] / np.maximum(self.tokens, 1.0)

    def grad_norm(self) -> Array:
        """Global L2 norm of each update's gradient, (k,)."""
        return np.sqrt(np.square(self.norms).sum(axis=1))


@dataclass(frozen=True)
class Update:
    """What tells a sound update from one that is not."""

    loss: float  # nats per token, over all ranks
    norms: Tensor  # (P,): gradient L2 norm of each parameter
    norm: float  # of the whole gradient that was applied: sharpness_rho's is another than that of `norms`
    index: Tensor  # (B,): the windows of this rank


class _Pending(NamedTuple):
    """One update whose tensors are still on their device; see `Window.add`."""

    sums: Tensor
    norms: Tensor
    tokens: float
    skipped: bool
    norm: Tensor
    windows: Tensor


class Window:
    """Collects the sums and gradient norms of each update without waiting for the device."""

    def __init__(self) -> None:
        self._pending: list[_Pending] = []
        self._rows: list[list[float]] = []  # settled: sums, tokens, skipped, then norms

    def add(
        self, sums: Tensor, norms: Tensor, tokens: float, skipped: bool, norm: Tensor, index: Tensor
    ) -> None:
        """Add one update: `sums` (len(SUMS),) of this rank, `norms` (P,) and `tokens` of all ranks.

        `skipped`: whether it was left out; `norm`, 0-dim, of the gradient that was applied; `index` (B,): the
        windows of this rank.
        """
        self._pending.append(_Pending(sums, norms, tokens, skipped, norm, index))

    def settle(self) -> list[Update]:
        """Bring what is pending to the host, summed over ranks: the one wait. Called by every rank alike.

        Returns the updates that were pending, in order.
        """
        if not self._pending:
            return []
        sums = torch.stack([one.sums for one in self._pending]).double()
        norms = torch.stack([one.norms for one in self._pending]).double()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        applied = torch.stack([one.norm for one in self._pending]).cpu().numpy()
        norms = norms.cpu()
        counts = torch.tensor([[one.tokens, one.skipped] for one in self._pending], dtype=torch.float64)
        rows = torch.cat([sums.cpu(), counts, norms], dim=1).tolist()
        self._rows += rows
        settled = [
            Update(rows[number][0] / max(one.tokens, 1.0), norms[number], float(applied[number]), one.windows)
            for number, one in enumerate(self._pending)
        ]
        self._pending.clear()
        return settled

    def take(self) -> Steps:
        """Return all updates since the last call and forget them."""
        self.settle()
        table = np.asarray(self._rows, dtype=np.float64)
        self._rows.clear()
        sums = {name: table[:, column] for column, name in enumerate(SUMS)}
        tokens, skipped = table[:, len(SUMS)], table[:, len(SUMS) + 1]
        return Steps(sums, tokens, table[:, len(SUMS) + 2 :], skipped)

    def __len__(self) -> int:
        return len(self._pending) + len(self._rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the updates not yet recorded, as plain lists; every rank must call it."""
        self.settle()
        return {"rows": [list(row) for row in self._rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._pending.clear()
        self._rows = [list(row) for row in state["rows"]]


def step_sums(parts: list[TokenSums]) -> Tensor:
    """Add up the micro-batches of one update: (len(SUMS),) on their device."""
    rows = [torch.stack([_sum(part, name) for name in SUMS]) for part in parts]
    return rows[0] if len(rows) == 1 else torch.stack(rows).sum(0)


def _sum(part: TokenSums, name: str) -> Tensor:
    """Return one of the sums; 0 for a cosine distance where the objective has none."""
    value: Tensor | None = getattr(part, name)
    return torch.zeros_like(part.nats) if value is None else value


@dataclass
class Stopwatch:
    """Seconds spent training: stopped during evaluation, saving and sampling, carried over a resume."""

    elapsed: float = 0.0
    _since: float | None = field(default=None, repr=False)

    def start(self) -> None:
        """Go on counting."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop counting."""
        if self._since is not None:
            self.elapsed += time.perf_counter() - self._since
            self._since = None

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self.elapsed + running

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave a passage out of the count."""
        running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()
