"""What a run is: the command, code, versions and machine behind it. The content of `run.json`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmx.runs.files import plain

FORMAT = 1
STATUSES = ("running", "completed", "interrupted", "failed")
PACKAGES = (
    "lmx",
    "torch",
    "lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
    "transformers",
    "datasets",
    "tokenizers",
)
# settings that say where and from where a run goes on, not what it computes
_NOT_IDENTITY = ("resume", "paths")
_DIFF_LIMIT = 200_000  # characters of `git diff` that are kept


def now() -> str:
    """Return the present moment as ISO 8601 in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def command_line(overrides: Sequence[str], module: str = "lmx.train") -> str:
    """Return the shell command that runs `module` with these overrides, quoted where a shell needs it."""
    return " ".join(["python -m", module, *(shlex.quote(item) for item in overrides)])


def config_fingerprint(config: dict[str, Any]) -> str:
    """Return 16 hex digits that two resolved configurations share when they describe the same computation.

    Where the run lands and what it resumes from (`paths`, `resume`) do not count.
    """
    kept = {key: value for key, value in config.items() if key not in _NOT_IDENTITY}
    text = json.dumps(plain(kept), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str | None]:
    """Return the versions of Python and the packages that matter, importing none; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Return commit, branch, untracked files and diff of the repository that the code comes from.

    `folder` is where to look: lmx's own source when it is tracked there, else the working folder.
    Returns None outside a repository or without git. A diff longer than 200,000 characters is cut at a line
    and its whole length stands beside it.
    """
    folder = folder or _source_folder()
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = _git(folder, "diff", "HEAD", "--no-ext-diff", "--no-color") or ""
    kept = diff if len(diff) <= _DIFF_LIMIT else diff[: diff.rfind("\n", 0, _DIFF_LIMIT) + 1]
    untracked = (_git(folder, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    return {
        "commit": commit.strip(),
        "branch": (_git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "dirty": bool(diff),
        "untracked": untracked[:100],
        "diff": kept,
        "diff_characters": len(diff),
    }


def new_identity(*, overrides: Sequence[str], seed: int, **facts: Any) -> dict[str, Any]:
    """Return the first content of `run.json`: who runs what, with which code, on what; status `running`."""
    return {
        "format": FORMAT,
        "command": command_line(overrides),
        "overrides": list(overrides),
        "argv": list(sys.argv),
        "seed": seed,
        **facts,
        "git": git_state(),
        "versions": versions(),
        "status": "running",
        "reason": None,
        "started": now(),
        "ended": None,
        "sessions": [],
        "result": None,
    }


def _source_folder() -> Path:
    package = Path(__file__).resolve().parents[1]
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None
    return package if tracked else Path.cwd()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
