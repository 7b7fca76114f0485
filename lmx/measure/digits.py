"""Numbers as text that stays readable whatever their size."""

from __future__ import annotations

import math

WHOLE = 1e6  # from here on digits before the point are no longer read one by one
SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def digits(value: float, spec: str) -> str:
    """Format `value` by `spec` (as in an f-string); from a million on with three digits: ``1.07e+13``.

    A perplexity is below its vocabulary unless the model is worse than guessing; then it may be anything.
    """
    if not math.isfinite(value):
        return str(float(value))
    return f"{value:.3g}" if spec.endswith("f") and abs(value) >= WHOLE else format(value, spec)


def amount(count: float) -> str:
    """A large count in three or four digits: ``4.92M``, ``812``."""
    scale, letter = next(((s, x) for s, x in SCALES if abs(count) >= s), (1.0, ""))
    scaled = count / scale
    return f"{scaled:.0f}" if not letter else f"{scaled:.{2 if scaled < 100 else 1}f}{letter}"
