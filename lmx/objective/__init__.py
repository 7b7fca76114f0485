"""What is minimised, computed from hidden states: fused linear cross-entropy, and the cosine mix."""

from lmx.objective.build import FusedObjective, build_objective
from lmx.objective.cosine import CosineMix
from lmx.objective.fused import Settings
from lmx.objective.sums import IGNORE_INDEX, Objective, TokenSums
from lmx.objective.workspace import Tiling

__all__ = [
    "IGNORE_INDEX",
    "CosineMix",
    "FusedObjective",
    "Objective",
    "Settings",
    "Tiling",
    "TokenSums",
    "build_objective",
]
