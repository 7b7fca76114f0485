"""Parameter groups, update rules of our own, and schedules as pure functions of the step."""

from typing import TYPE_CHECKING, Any

from lmx.optim.schedule import lr_multiplier, schedule_problems, warmup_steps

if TYPE_CHECKING:
    from lmx.optim.build import build_optimizer
    from lmx.optim.lion import Lion
    from lmx.optim.muon import Muon
    from lmx.optim.paired import PairedOptimizer
    from lmx.optim.rmsuon import AdaMuon, AdaRMSuon, RMSuon
    from lmx.optim.sharpness import Sharpness

_NEEDS_TORCH = {
    "AdaMuon": "rmsuon",
    "AdaRMSuon": "rmsuon",
    "Lion": "lion",
    "Muon": "muon",
    "PairedOptimizer": "paired",
    "RMSuon": "rmsuon",
    "Sharpness": "sharpness",
    "build_optimizer": "build",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used: `lmx.plan` reads schedules without it."""
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)


__all__ = [
    "AdaMuon",
    "AdaRMSuon",
    "Lion",
    "Muon",
    "PairedOptimizer",
    "RMSuon",
    "Sharpness",
    "build_optimizer",
    "lr_multiplier",
    "schedule_problems",
    "warmup_steps",
]
