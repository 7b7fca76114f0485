"""What the machine did: memory at its peak, time a step, tokens a second, share of the device's peak."""

from __future__ import annotations

import resource
import sys
from typing import Any

import lightning.pytorch as pl
import torch

from lmx.measure import peak_flops, training_flops
from lmx.training.callbacks.base import Measure
from lmx.training.module import LanguageModule
from lmx.training.window import Steps

MIB = 2**20


class PeakMemory(Measure):
    """Logs the peak so far in MiB: allocated and reserved on a GPU, resident set of the process on a CPU."""

    def measure(self, steps: Steps, module: LanguageModule, seconds: float) -> dict[str, float | None]:
        """Return the peak of this rank's device."""
        if module.device.type == "cuda":
            return {
                "memory/peak_allocated_mib": torch.cuda.max_memory_allocated(module.device) / MIB,
                "memory/peak_reserved_mib": torch.cuda.max_memory_reserved(module.device) / MIB,
            }
        return {"memory/peak_rss_mib": peak_rss_mib()}


class Throughput(Measure):
    """Logs seconds a step, tokens a second, and MFU: the share of the device's peak in the model's FLOPs.

    Seconds are of training alone (no evaluation, saving, sampling); the device is waited for before the clock
    is read. MFU is None where the peak is not known: lmx does not guess it.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Look the device's peak up once."""
        experiment = pl_module.experiment
        declared = experiment.hardware.peak_tflops
        self._peak: float | None = None
        if declared is not None:
            self._peak = declared * 1e12 * trainer.world_size
        elif pl_module.device.type == "cuda":
            dtype = {"bf16-mixed": "bf16", "16-mixed": "fp16"}.get(trainer.precision, "fp32")
            peak = peak_flops(torch.cuda.get_device_name(pl_module.device), dtype)
            self._peak = None if peak is None else peak * trainer.world_size
        self._flops = training_flops(experiment)

    def measure(self, steps: Steps, module: LanguageModule, seconds: float) -> dict[str, float | None]:
        """Return speed over the given updates."""
        rate = float(steps.tokens.sum()) / seconds if seconds > 0 else 0.0
        return {
            "speed/step_seconds": seconds / steps.count,
            "speed/tokens_per_second": rate,
            "speed/mfu": None if self._peak is None else rate * self._flops / self._peak,
        }


def peak_rss_mib() -> float:
    """Peak resident set size of this process, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
