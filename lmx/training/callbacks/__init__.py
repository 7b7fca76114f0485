"""The callbacks that `conf/callbacks/*.yaml` name."""

from lmx.training.callbacks.base import Entry, Listener, Measure
from lmx.training.callbacks.early_stopping import EarlyStopping
from lmx.training.callbacks.gradient_norm import GradientNorm
from lmx.training.callbacks.machine import PeakMemory, Throughput
from lmx.training.callbacks.predictive_integrity import PredictiveIntegrity
from lmx.training.callbacks.samples import Samples

__all__ = [
    "EarlyStopping",
    "Entry",
    "GradientNorm",
    "Listener",
    "Measure",
    "PeakMemory",
    "PredictiveIntegrity",
    "Samples",
    "Throughput",
]
