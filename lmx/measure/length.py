"""How many updates a horizon makes."""

from __future__ import annotations

import math


def updates(amount: float, unit: str, tokens_per_update: int, updates_per_epoch: int | None) -> int | None:
    """Return the updates in `amount` of `unit` (steps, epochs, tokens, hours), epochs and tokens rounded up.

    None where it is not known: hours, and epochs of a corpus whose `updates_per_epoch` is None.
    """
    if unit == "steps":
        return int(amount)
    if unit == "tokens":
        return math.ceil(amount / tokens_per_update)
    if unit == "epochs" and updates_per_epoch is not None:
        return math.ceil(amount * updates_per_epoch)
    return None
