"""Pure functions on numbers: integrity, perplexity, parameters, FLOPs, memory, accounting. Needs no torch."""

from lmx.measure.chinchilla import Chinchilla, chinchilla
from lmx.measure.counts import FlopCounts, ParameterCounts, flops_per_token, parameter_counts
from lmx.measure.devices import peak_flops
from lmx.measure.direction import lower_is_better
from lmx.measure.length import updates
from lmx.measure.memory import MemoryEstimate, memory_estimate
from lmx.measure.pi import (
    Smoothing,
    effective_gamma,
    integrated_predictive_integrity,
    log_predictive_integrity,
    neg_exp_pi,
    neg_log_one_minus,
    predictive_integrity,
)
from lmx.measure.text import bits_per_byte, distinct_n, perplexity, word_perplexity

__all__ = [
    "Chinchilla",
    "FlopCounts",
    "MemoryEstimate",
    "ParameterCounts",
    "Smoothing",
    "bits_per_byte",
    "chinchilla",
    "distinct_n",
    "effective_gamma",
    "flops_per_token",
    "integrated_predictive_integrity",
    "log_predictive_integrity",
    "lower_is_better",
    "memory_estimate",
    "neg_exp_pi",
    "neg_log_one_minus",
    "parameter_counts",
    "peak_flops",
    "perplexity",
    "predictive_integrity",
    "updates",
    "word_perplexity",
]
