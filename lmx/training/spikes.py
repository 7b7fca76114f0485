"""Updates that are left out because their loss or gradient stands far above those before."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Any

HISTORY = 128  # updates whose mean and standard deviation a new one is held against
ENOUGH = 64  # of them, before the first can be called a spike


class Spikes:
    """Holds each update's loss and gradient norm against those of the last HISTORY updates.

    A spike is more than `sigmas` standard deviations above the mean of either. It enters the history too, so
    that a level that stays high is soon the usual one. Source: the skip-step optimizers of OLMo-core.
    """

    def __init__(self, sigmas: float) -> None:
        self.sigmas = sigmas
        self._losses: deque[float] = deque(maxlen=HISTORY)
        self._norms: deque[float] = deque(maxlen=HISTORY)

    def is_spike(self, loss: float, norm: float) -> bool:
        """Take an update's loss, nats per token, and gradient norm; return whether to leave it out."""
        spike = self._beyond(self._losses, loss) or self._beyond(self._norms, norm)
        self._losses.append(loss)
        self._norms.append(norm)
        return spike

    def state_dict(self) -> dict[str, Any]:
        """Return the history as plain lists."""
        return {"losses": list(self._losses), "norms": list(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._losses = deque(state["losses"], maxlen=HISTORY)
        self._norms = deque(state["norms"], maxlen=HISTORY)

    def _beyond(self, history: deque[float], value: float) -> bool:
        if len(history) < ENOUGH:
            return False
        return value > statistics.fmean(history) + self.sigmas * statistics.pstdev(history)
