"""`hardware` and `paths`: where it runs and where things lie.

Precision apart, hardware changes roundings alone, and the number of devices what drops out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING

from lmx.config.fields import choice, field_problems, number


@dataclass
class HardwareConfig:
    """Devices, precision and memory; `auto` chooses from what is there and says why on the log."""

    name: str = MISSING
    accelerator: str = choice("auto", "auto", "cpu", "gpu")
    devices: int | None = number(None, low=1)  # null: one
    strategy: str = choice("single", "single", "ddp")
    # bf16 and fp16 are autocast; weights stay fp32
    precision: str = choice("auto", "auto", "fp32", "bf16", "fp16")
    micro_batch_size: int | None = number(None, low=1)  # sequences a device and pass; null: the whole share
    compile: str = choice("auto", "auto", "on", "off")
    threads: int | None = number(None, low=1)  # null: one a core, of those that this process may use
    deterministic: bool = True  # refuse operations that may differ between two runs
    peak_tflops: float | None = number(None, above=0)  # for MFU where the device is not in our table

    def problems(self) -> Iterator[str]:
        """Yield one line for each contradiction inside the hardware settings."""
        yield from field_problems(self, "hardware")
        if self.strategy == "single" and self.devices not in (None, 1):
            yield (
                f"hardware.devices: got {self.devices} with hardware.strategy=single, allowed: 1, "
                "or hardware.strategy=ddp"
            )
        if self.accelerator == "cpu" and self.precision == "fp16":
            yield "hardware.precision: got 'fp16' with hardware.accelerator=cpu, allowed: fp32, bf16, auto"


@dataclass
class PathsConfig:
    """Folders. Runs land in outputs/<experiment>/; prepared corpora and tokenizers in the cache."""

    outputs: str = "outputs"
    cache: str = "~/.cache/lmx"

    def problems(self) -> Iterator[str]:
        """Yield nothing: whether a folder can be used is seen when it is."""
        yield from ()
