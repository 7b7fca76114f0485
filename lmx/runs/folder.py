"""The run folder: made once and never twice, and described in `run.json`."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lmx.config.errors import CheckpointError, ConfigError, nearest
from lmx.runs import lock
from lmx.runs.files import make_folder, space_guard, sync, write_atomic, write_json
from lmx.runs.identity import STATUSES, new_identity, now

MARKS = ("run.json", "config.yaml", "metrics.jsonl")  # a folder with one of these is a run's
POINTER_VARIABLE = "LMX_RUN_POINTER"  # a file into which a sweep's job writes where its run folder is


class RunFolder:
    """One run's folder and the names in it. Only the process that trains writes into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def place(outputs: str | Path, name: str) -> Path:
        """Return the nearest folder there is above `<outputs>/<name>/`, where a run folder could be made.

        Raises ConfigError when it cannot be written. Nothing is made.
        """
        parent = Path(outputs).expanduser().absolute() / name
        found = next(path for path in (parent, *parent.parents) if os.path.lexists(path))
        code = 0 if os.access(found, os.W_OK | os.X_OK) else errno.EACCES
        code = code if found.is_dir() else errno.ENOTDIR
        if code:
            raise _unwritable(outputs, OSError(code, os.strerror(code), str(found)))
        return found

    @classmethod
    def create(cls, outputs: str | Path, name: str) -> RunFolder:
        """Make `<outputs>/<name>/<YYYY-MM-DD_HH-MM-SS_xxxxxx>/`, new and empty, whoever else does so at once.

        Raises ConfigError when the outputs folder cannot be made or written, SpaceError when its disk is
        full.
        """
        parent = Path(outputs).expanduser() / name
        try:
            with space_guard(parent):
                make_folder(parent)
                while True:
                    path = parent / f"{_stamp()}_{secrets.token_hex(3)}"
                    try:
                        path.mkdir()  # fails when it exists: no two runs share a folder
                    except FileExistsError:
                        continue
                    sync(parent)
                    return cls(path)
        except OSError as error:
            raise _unwritable(outputs, error) from error

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Return the run folder at `path`.

        Raises CheckpointError when there is none, naming the nearest that there is.
        """
        folder = Path(path).expanduser()
        if is_run(folder):
            return cls(folder)
        if not folder.exists():
            raise CheckpointError(f"{folder}: no such run folder{_nearest_folder(folder)}")
        raise CheckpointError(f"{folder}: not a run folder, none of {', '.join(MARKS)} is in it")

    @property
    def config(self) -> Path:
        """`config.yaml`: resolved and complete; loads back as an experiment."""
        return self.path / "config.yaml"

    @property
    def identity(self) -> Path:
        """`run.json`: what the run is and how it stands."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`: one line a logged step or evaluation; see MetricsLog."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """`checkpoints/`."""
        return self.path / "checkpoints"

    @property
    def tokenizer(self) -> Path:
        """`tokenizer/`."""
        return self.path / "tokenizer"

    @property
    def sample_log(self) -> Path:
        """`samples/samples.jsonl`: one line a generated text: step, prompt, text (the continuation alone)."""
        return self.path / "samples" / "samples.jsonl"

    @property
    def windows(self) -> Path:
        """`windows/`: the loss of each validation window at the best and the last evaluation."""
        return self.path / "windows"

    @property
    def plots(self) -> Path:
        """`plots/`."""
        return self.path / "plots"

    @property
    def report(self) -> Path:
        """`report.md`."""
        return self.path / "report.md"

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the resolved configuration as `config.yaml`."""
        write_atomic(self.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100))

    def write_identity(
        self,
        *,
        name: str,
        overrides: Sequence[str],
        seed: int,
        config_fingerprint: str,
        hardware: dict[str, Any],
        data: dict[str, Any],
        tokenizer: dict[str, Any],
        parameters: dict[str, int],
        **more: Any,
    ) -> None:
        """Write `run.json` with status `running`, adding command, git state, versions and the time.

        `hardware` says what was resolved (device, precision, threads, …); `data` and `tokenizer` hold
        at least a `fingerprint`, `parameters` at least `total` and `without_embedding`.

        Raises CheckpointError when another process trains in this folder.
        """
        lock.hold(self.path)
        facts = {
            "name": name,
            "config_fingerprint": config_fingerprint,
            "hardware": hardware,
            "data": data,
            "tokenizer": tokenizer,
            "parameters": parameters,
            **more,
        }
        identity = new_identity(overrides=overrides, seed=seed, **facts)
        write_json(self.identity, identity)
        self.set_status("running")

    def read_identity(self) -> dict[str, Any]:
        """Return the content of `run.json`; raises CheckpointError when it is missing or damaged."""
        try:
            identity = json.loads(self.identity.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.identity}: missing, the run ended before it was written") from error
        except ValueError as error:
            raise CheckpointError(f"{self.identity}: damaged ({error})") from error
        if not isinstance(identity, dict):
            raise CheckpointError(f"{self.identity}: damaged (not a JSON object)")
        return identity

    def discard_leftovers(self) -> None:
        """Remove what a process killed while writing has left half-written; for the one that trains here."""
        for path in self.path.rglob("*.tmp"):
            path.unlink(missing_ok=True)

    def update_identity(self, **changes: Any) -> None:
        """Replace top-level entries of `run.json`, atomically."""
        write_json(self.identity, {**self.read_identity(), **changes})

    def set_status(
        self,
        status: str,
        reason: str | None = None,
        *,
        step: int | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        """Record how the run stands.

        `running` starts a session and marks the folder as in use, the other statuses end both.
        `reason` is one line (why it failed or was interrupted), `step` the last one finished, `result` the
        figures that a sweep's table shows.

        Raises CheckpointError for `running` when another process trains in this folder.
        """
        assert status in STATUSES, status
        moment = now()
        identity = self.read_identity()
        sessions = list(identity.get("sessions") or [])
        if status == "running":
            lock.hold(self.path)
            sessions.append({"started": moment, "ended": None, "status": status})
        elif sessions:
            sessions[-1] = {**sessions[-1], "ended": moment, "status": status, "step": step}
        ended = None if status == "running" else moment
        changes: dict[str, Any] = {"status": status, "reason": reason, "ended": ended, "sessions": sessions}
        if result is not None:
            changes["result"] = result
        write_json(self.identity, {**identity, **changes})
        if status != "running":
            lock.release(self.path)


def _stamp() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def is_run(path: Path) -> bool:
    """Whether `path` is a run folder."""
    return any((path / mark).is_file() for mark in MARKS)


def _nearest_folder(path: Path) -> str:
    """Name the existing folder most like the first missing part of `path`."""
    while not path.parent.is_dir():
        path = path.parent
    return nearest(path.name, (item.name for item in path.parent.iterdir() if item.is_dir()))


def _unwritable(outputs: str | Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"paths.outputs: got {str(outputs)!r}, where no run folder can be made "
        f"({error.strerror}: {error.filename}); allowed: a folder that can be written"
    )
