"""Importing Lightning without what it would take along."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_utilities.core.imports import RequirementCache

# torchmetrics, which Lightning imports, imports these for plots and text scores that lmx never asks it for:
# half of the seconds and a fifth of the memory of the import
UNUSED = ("matplotlib", "transformers")


def import_lightning() -> None:
    """Import Lightning; does nothing more where it has been imported already."""
    if "torchmetrics" in sys.modules:
        return
    with _hidden():
        import lightning.pytorch  # noqa: F401


@contextmanager
def _hidden() -> Iterator[None]:
    """Let torchmetrics take the `UNUSED` for missing. Its answers last; nobody else's import is touched."""
    look = RequirementCache._check_requirement

    def hide(self: RequirementCache) -> None:
        if (self.requirement or "").startswith(UNUSED):
            self.available, self.message = False, f"{self.requirement!r} is hidden by lmx"
        else:
            look(self)

    RequirementCache._check_requirement = hide  # type: ignore[method-assign]
    try:
        yield
    finally:
        RequirementCache._check_requirement = look  # type: ignore[method-assign]
