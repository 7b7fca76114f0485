"""Tokens against parameters, 20 to 1: the accounting of Hoffmann et al. 2022 (arXiv:2203.15556)."""

from __future__ import annotations

from dataclasses import dataclass

OPTIMAL_RATIO = 20.0
TOLERANCE = 1.25  # the paper's three approaches differ by about as much at small sizes


@dataclass(frozen=True)
class Chinchilla:
    """Where a run stands beside the compute-optimal ratio."""

    ratio: float  # tokens per parameter
    optimal_parameters: float  # for these tokens
    optimal_tokens: float  # for these parameters
    status: str


def chinchilla(parameters: int, tokens: float) -> Chinchilla:
    """Account for `tokens` of training data on a model of `parameters` (all of them, as the paper counts).

    For a corpus seen several times its distinct tokens are meant: passes beyond the fourth add little
    (Muennighoff et al. 2023, arXiv:2305.16264). Raises ValueError for a model without parameters.
    """
    if parameters <= 0:
        raise ValueError(f"parameters: got {parameters}, needed: at least one")
    ratio = tokens / parameters
    if ratio * TOLERANCE < OPTIMAL_RATIO:
        status = "few tokens for this size"
    elif ratio > OPTIMAL_RATIO * TOLERANCE:
        status = "many tokens for this size"
    else:
        status = "near compute-optimal"
    return Chinchilla(ratio, tokens / OPTIMAL_RATIO, parameters * OPTIMAL_RATIO, status)
