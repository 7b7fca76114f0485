"""Which way a metric is better."""

from __future__ import annotations

# by the last part of the name, whatever the split; all others (losses, perplexities, seconds, MiB) fall
HIGHER = frozenset(("accuracy", "accuracy_top5", "confidence", "pi", "log_pi", "tokens_per_second", "mfu"))


def lower_is_better(name: str) -> bool:
    """Whether the lower value of metric `name`, such as ``val/loss``, is the better one."""
    return name.rpartition("/")[2] not in HIGHER
