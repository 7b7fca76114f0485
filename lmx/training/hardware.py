"""From `hardware` to what is really used, each choice with its reason in one line."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

import torch

from lmx import native
from lmx.config import ConfigError, HardwareConfig
from lmx.config.cores import cores
from lmx.optim.orthogonal import multiplies_bf16

# a compilation pays when it saves more than it costs. On a CPU it hardly saves any (docs/performance.md)
COMPILE_STEPS_GPU = 500

_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # of glibc's mallopt

LIGHTNING_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class Machine:
    """Resolved hardware."""

    accelerator: str  # cpu or gpu
    device_name: str
    devices: int
    precision: str  # fp32, bf16 or fp16
    threads: int
    compile: bool
    reasons: tuple[str, ...]

    def describe(self) -> str:
        """One line for the log and the record."""
        where = f"{self.devices} × {self.device_name}" if self.devices > 1 else self.device_name
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return "; ".join((f"{where}, {self.precision}, {threads}", *self.reasons))


def choose(config: HardwareConfig, total_steps: int | None) -> Machine:
    """Resolve every `auto`; raises ConfigError when what was asked for is not there.

    `total_steps` is None for a run of unknown length, which is taken to be a long one.
    """
    accelerator, why_accelerator = _accelerator(config)
    devices = config.devices or 1
    if accelerator == "gpu" and devices > torch.cuda.device_count():
        raise ConfigError(
            f"hardware.devices: got {devices}, allowed here: at most {torch.cuda.device_count()} GPUs"
        )
    precision, why_precision = _precision(config.precision, accelerator)
    compiled, why_compile = _compile(config.compile, accelerator, total_steps)
    why_memory = _keep_freed_memory() if accelerator == "cpu" else ()
    name = torch.cuda.get_device_name() if accelerator == "gpu" else processor_name()
    why_threads = _set_threads(config.threads)
    reasons = (*why_accelerator, *why_precision, *why_compile, *why_threads, *why_memory)
    return Machine(accelerator, name, devices, precision, torch.get_num_threads(), compiled, reasons)


def _accelerator(config: HardwareConfig) -> tuple[str, tuple[str, ...]]:
    available = torch.cuda.is_available()
    if config.accelerator == "gpu" and not available:
        raise ConfigError(
            "hardware.accelerator: got 'gpu', allowed here: cpu, auto (no CUDA device was found)"
        )
    if config.accelerator != "auto":
        return config.accelerator, ()
    return ("gpu", ()) if available else ("cpu", ("no GPU was found",))


def _precision(asked: str, accelerator: str) -> tuple[str, tuple[str, ...]]:
    if asked != "auto":
        return asked, ()
    if accelerator == "gpu":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", ("bf16: this GPU computes it natively",)
        return "fp16", ("fp16: this GPU has no native bf16",)
    if multiplies_bf16():
        return "bf16", ("bf16: this CPU multiplies it natively",)
    return "fp32", ("fp32: this CPU has no instructions for bf16",)


def _compile(asked: str, accelerator: str, total_steps: int | None) -> tuple[bool, tuple[str, ...]]:
    if accelerator == "cpu":
        slow = () if native.available() else ("slower layers: there is no C++ compiler that serves",)
        return asked == "on", slow
    if asked != "auto":
        return asked == "on", ()
    pays = total_steps is None or total_steps >= COMPILE_STEPS_GPU
    return pays, ("compiled: the run is long enough",) if pays else ("not compiled: the run is short",)


def _set_threads(asked: int | None) -> tuple[str, ...]:
    """Let torch use as many threads as were asked for, else no more than there are cores for this process.

    Torch counts the machine's cores, also in a container that gets a part of them: its threads would then
    wait for each other most of the time.
    """
    here = cores()
    if asked is not None:
        torch.set_num_threads(asked)
    elif torch.get_num_threads() > here:
        torch.set_num_threads(here)
        return (f"a thread for each of {here} of the machine's {os.cpu_count()} cores: more are not allowed",)
    return ()


def _keep_freed_memory() -> tuple[str, ...]:
    """Let glibc's allocator keep what is freed for the next step: the kernel's fresh pages cost time.

    Does nothing where the allocator is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not (mallopt(_M_MMAP_THRESHOLD, 32 << 20) and mallopt(_M_TRIM_THRESHOLD, -1)):
        return ()
    return ("freed memory is kept for the next step",)


def processor_name() -> str:
    """Return what the processor calls itself."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else os.uname().machine
