"""What the tests of the configuration share: a base to change, and a command to run."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from lmx.config import Experiment
from lmx.config.compose import compose, config_dir
from lmx.config.validate import to_dict, validate

# a command whose task says what it got, so that the way there is tested without training
PROBE = """
import json, os, signal, sys, time
from pathlib import Path
from lmx.config.entry import hydra_door
from lmx.launch import ProcessLauncher

def run(experiment, overrides):
    heavy = [name for name in ("torch", "lightning", "transformers", "numpy") if name in sys.modules]
    print("GOT", json.dumps([experiment.name, experiment.seed, overrides, heavy]), flush=True)
    if experiment.seed == 7:
        raise ValueError("boom")
    if experiment.seed == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    if experiment.seed == 9:
        time.sleep(60)
    if "LMX_RUN_POINTER" in os.environ:
        folder = Path(experiment.paths.outputs).absolute() / f"run{experiment.seed}"
        folder.mkdir(parents=True)
        result = {"val/loss": experiment.seed / 4, "val/bits_per_byte": 1.5}
        (folder / "run.json").write_text(json.dumps({"status": "completed", "result": result}))
        Path(os.environ["LMX_RUN_POINTER"]).write_text(str(folder))
    return 0

if __name__ == "__main__":
    sys.exit(hydra_door(run, module="probe_command", launcher=ProcessLauncher))
"""


@cache
def composed(*overrides: str) -> Experiment:
    """Compose once for all tests of this process; what is returned is shared and must not be changed."""
    return compose(overrides)


@cache
def _base(overrides: tuple[str, ...]) -> dict[str, Any]:
    return to_dict(composed(*overrides))


def changed(changes: dict[str, Any], overrides: Iterable[str] = (), given: Iterable[str] = ()) -> Any:
    """Validate the composition of `overrides` with dotted keys changed to other values."""
    config = copy.deepcopy(_base(tuple(overrides)))
    for key, value in changes.items():
        *path, name = key.split(".")
        place = config
        for part in path:
            place = place[part]
        place[name] = value
    return validate(config, given)


def command(
    *arguments: str, cwd: Path, module: str = "probe_command", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m <module> <arguments>` in `cwd`, which also holds the probe command's module."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=environment(cwd, **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def environment(cwd: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a command: the probe lies beside `cwd`, out of the way of what is written."""
    place = cwd.parent / "modules"
    place.mkdir(exist_ok=True)
    (place / "probe_command.py").write_text(PROBE)
    return {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1", **variables}


def presets() -> list[str]:
    """Return every `group=option` that a file in conf/ stands for."""
    root = config_dir()
    files = sorted(file.relative_to(root).with_suffix("") for file in root.glob("*/**/*.yaml"))
    options = [f"{file.parts[0]}={'/'.join(file.parts[1:])}" for file in files]
    return [option for option in options if not option.startswith(("hydra=", "study="))]


def options(group: str) -> list[str]:
    """Return the options of a group that files in conf/ stand for, without its schema."""
    names = (preset.removeprefix(f"{group}=") for preset in presets() if preset.startswith(f"{group}="))
    return [name for name in names if name != "schema"]
