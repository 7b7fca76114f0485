"""Where benchmarks write what they measured, and on what."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent / "results"


def environment() -> str:
    """One line: machine, threads, versions."""
    import torch

    from lmx.training.hardware import processor_name

    named = ("torch", "lightning", "transformers")
    python = f"Python {platform.python_version()}"
    versions = ", ".join((python, *(f"{name} {version(name)}" for name in named)))
    return f"{processor_name()}, {torch.get_num_threads()} threads; {versions}"


def write(name: str, text: str) -> Path:
    """Write a benchmark's page as `results/<name>_<date>_<time>.md`; return its path."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}_{datetime.datetime.now():%Y-%m-%d_%H%M}.md"
    path.write_text(text.rstrip() + "\n", encoding="utf-8")
    return path
