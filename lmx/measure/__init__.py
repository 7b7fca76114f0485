"""Pure functions on numbers: integrity, perplexity, parameters, FLOPs, memory, accounting. Needs no torch."""

from lmx.measure.chinchilla import Chinchilla, chinchilla
from lmx.measure.counts import FlopCounts, ParameterCounts, flops_per_token, parameter_counts, training_flops
from lmx.measure.devices import peak_flops
from lmx.measure.digits import amount, digits
from lmx.measure.direction import lower_is_better
from lmx.measure.length import updates
from lmx.measure.memory import CheckpointSpace, MemoryEstimate, checkpoint_space, memory_estimate
from lmx.measure.pi import (
    Smoothing,
    effective_gamma,
    integrated_predictive_integrity,
    log_predictive_integrity,
    neg_exp_pi,
    neg_log_one_minus,
    predictive_integrity,
)
from lmx.measure.scaling import ScalingFit, ScalingLaw, fit_scaling, missing_for_scaling
from lmx.measure.statistics import (
    Interval,
    WindowBootstrap,
    difference_interval,
    mean_interval,
    verdict,
)
from lmx.measure.text import bits_per_byte, distinct_n, perplexity, word_perplexity

__all__ = [
    "CheckpointSpace",
    "Chinchilla",
    "FlopCounts",
    "Interval",
    "MemoryEstimate",
    "ParameterCounts",
    "ScalingFit",
    "ScalingLaw",
    "Smoothing",
    "WindowBootstrap",
    "amount",
    "bits_per_byte",
    "checkpoint_space",
    "chinchilla",
    "difference_interval",
    "digits",
    "distinct_n",
    "effective_gamma",
    "fit_scaling",
    "flops_per_token",
    "integrated_predictive_integrity",
    "log_predictive_integrity",
    "lower_is_better",
    "mean_interval",
    "memory_estimate",
    "missing_for_scaling",
    "neg_exp_pi",
    "neg_log_one_minus",
    "parameter_counts",
    "peak_flops",
    "perplexity",
    "predictive_integrity",
    "training_flops",
    "updates",
    "verdict",
    "word_perplexity",
]
