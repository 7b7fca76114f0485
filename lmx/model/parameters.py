"""What the name of a parameter says about it: its layer group, and its multiplier of the rate under muP."""

from __future__ import annotations

from lmx.config import ModelConfig

PARAMETER_GROUPS = ("embedding", "attention", "feed_forward", "norm", "head")


def parameter_group_of(name: str) -> str:
    """Return the layer group of a decoder parameter, one of `PARAMETER_GROUPS`.

    A tied head is the embedding's parameter and belongs to ``embedding``.
    """
    parts = name.split(".")
    if parts[-2].endswith("norm"):
        return "norm"
    if parts[0] == "blocks":
        return parts[2]
    return "head" if parts[0] == "head" else "embedding"


def is_hidden_matrix(name: str) -> bool:
    """Whether a decoder parameter is a matrix inside a block: width to width in both dimensions."""
    return name.endswith(".weight") and parameter_group_of(name) in ("attention", "feed_forward")


def mup_width_ratio(config: ModelConfig) -> float:
    """Return base width / width: what muP scales with; 1 without muP."""
    return 1.0 if config.mup_base_width is None else config.mup_base_width / config.hidden_size


def mup_lr_multiplier(config: ModelConfig, name: str) -> float:
    """Return the factor of a parameter's learning rate for Adam-like optimizers.

    The Adam table of muP (Yang et al., 2022, Tensor Programs V, table 8), m = width / base width:

    | | embeddings | norms, biases | hidden matrices | output head |
    |---|---|---|---|---|
    | init std | σ | 0 or 1 | σ/√m | σ |
    | multiplier of the output | 1 | | 1 | 1/m |
    | rate | lr | lr | lr/m | lr |

    with attention scores scaled by 1/D. Heads, head_dim and intermediate_size are to grow with the width.
    """
    return mup_width_ratio(config) if is_hidden_matrix(name) else 1.0
