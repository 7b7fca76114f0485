"""Seeding, and the random states of every rank as plain values that a checkpoint can hold."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 — libraries draw from the global state
    torch.manual_seed(seed)


def random_state() -> list[dict[str, Any]]:
    """Return the random states of all ranks, in order; every rank must call it."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    own = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states


def restore_random_state(states: list[dict[str, Any]]) -> None:
    """Restore this rank's part of what `random_state` returned."""
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    own = states[rank] if rank < len(states) else states[0]
    torch.set_rng_state(own["torch"].cpu())
    if own["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"].cpu())
    name, keys, position, has_gauss, cached = own["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = own["python"]
    random.setstate((version, tuple(internal), gauss))


def dropout_state(device: torch.device) -> Tensor:
    """Return the state of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def replayed(state: Tensor, device: torch.device) -> Iterator[None]:
    """Drop out inside what was dropped out since `state`, and go on outside as if nothing had been drawn."""
    now = dropout_state(device)
    _set_dropout_state(state, device)
    try:
        yield
    finally:
        _set_dropout_state(now, device)


def _set_dropout_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
