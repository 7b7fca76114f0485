"""How many cores a process may use: a container's share is seldom the machine."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def cores(groups: Path = _GROUPS) -> int:
    """Return the cores of this process: its affinity, or the quota of its container where that is less.

    `groups` is where Linux shows control groups, of version 1 or 2; elsewhere there is no quota.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota(groups)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(groups: Path) -> float | None:
    """Processor time a container gets in a second, in seconds; None without a limit."""
    try:
        if (groups / "cpu.max").exists():
            quota, period = (groups / "cpu.max").read_text().split()
        else:
            quota, period = ((groups / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
