"""The run folder: creation, identity, status, who holds it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmx.config import CheckpointError, ConfigError, SpaceError
from lmx.config.compose import compose
from lmx.config.validate import to_dict, validate
from lmx.runs import RunFolder, command_line, config_fingerprint, newest_unfinished, read_run, write_json
from lmx.runs.files import write_atomic
from lmx.runs.identity import git_state, versions


def describe(folder: RunFolder, **changes: Any) -> RunFolder:
    facts: dict[str, Any] = {
        "name": "toy",
        "overrides": ["seed=1", "name=a b"],
        "seed": 1,
        "config_fingerprint": "f0",
        "hardware": {"accelerator": "cpu"},
        "data": {"fingerprint": "d0"},
        "tokenizer": {"fingerprint": "t0"},
        "parameters": {"total": 10, "without_embedding": 6},
    }
    folder.write_identity(**{**facts, **changes})
    return folder


def create_many(outputs: str, count: int) -> list[str]:
    return [str(RunFolder.create(outputs, "family/toy").path) for _ in range(count)]


def test_created_folders_never_collide_between_processes(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        made = pool.starmap(create_many, [(str(tmp_path), 25)] * 4)
    paths = [path for part in made for path in part]
    assert len(set(paths)) == 100
    assert {Path(path).parent for path in paths} == {tmp_path / "family" / "toy"}
    stamp = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}")
    assert all(stamp.fullmatch(Path(path).name) and not os.listdir(path) for path in paths)


def test_an_existing_folder_is_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["aaaaaa", "aaaaaa", "bbbbbb"])
    monkeypatch.setattr("lmx.runs.folder.secrets.token_hex", lambda size: next(names))
    monkeypatch.setattr("lmx.runs.folder._stamp", lambda: "2025-01-31_12-00-00")
    first, second = RunFolder.create(tmp_path, "toy"), RunFolder.create(tmp_path, "toy")
    assert [first.path.name[-6:], second.path.name[-6:]] == ["aaaaaa", "bbbbbb"]


def test_outputs_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"^paths\.outputs: got '.*/file', where no run folder can be made .*allowed"
    ):
        RunFolder.create(tmp_path / "file", "toy")
    assert os.listdir(tmp_path) == ["file"]


def test_read_only_outputs_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"^paths\.outputs: .*Read-only file system: .*toy.*; allowed: "):
        RunFolder.create(tmp_path, "toy")


def test_a_disk_that_is_full_already_is_said_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SpaceError, match=r"toy: cannot be written, the disk is full \(No space left"):
        RunFolder.create(tmp_path, "toy")


def test_open_names_what_is_wrong_and_the_nearest_folder(tmp_path: Path) -> None:
    folder = describe(RunFolder.create(tmp_path, "toy"))
    assert RunFolder.open(folder.path).path == folder.path
    wrong = folder.path.with_name(folder.path.name[:-1] + "_")
    with pytest.raises(CheckpointError, match=rf"no such run folder; did you mean '{folder.path.name}'\?"):
        RunFolder.open(wrong)
    with pytest.raises(CheckpointError, match=r"no such run folder; did you mean 'toy'\?"):
        RunFolder.open(tmp_path / "tyo" / folder.path.name)
    with pytest.raises(CheckpointError, match=r"toy: not a run folder, none of run\.json, config\.yaml"):
        RunFolder.open(folder.path.parent)


def test_config_loads_back_as_the_experiment(tmp_path: Path) -> None:
    experiment = compose(["optimizer=muon", "hardware=cpu", "seed=7"])
    folder = RunFolder.create(tmp_path, experiment.name)
    folder.write_config(to_dict(experiment))
    assert validate(yaml.safe_load(folder.config.read_text())) == experiment


def test_identity_says_what_ran(tmp_path: Path) -> None:
    folder = describe(RunFolder.create(tmp_path, "toy"), total_steps=600)
    identity = json.loads(folder.identity.read_text())
    assert identity["command"] == "python -m lmx.train seed=1 'name=a b'"
    assert identity["overrides"] == ["seed=1", "name=a b"]
    assert (identity["seed"], identity["total_steps"], identity["status"]) == (1, 600, "running")
    assert identity["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert identity["versions"]["numpy"] == __import__("numpy").__version__
    folder.update_identity(total_steps=700)
    assert folder.read_identity() == {**identity, "total_steps": 700}
    folder.set_status("completed")


def test_versions_import_nothing_heavy() -> None:
    code = "import sys, lmx.runs as r; r.identity.versions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert versions()["torch"] is not None


def test_git_state_of_a_repository(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "-b", "trunk")
    (tmp_path / "a.txt").write_text("one\n")
    git("add", "a.txt")
    git("commit", "-m", "first")
    state = git_state(tmp_path)
    assert state is not None
    assert (state["commit"], state["branch"]) == (git("rev-parse", "HEAD").strip(), "trunk")
    assert (state["dirty"], state["untracked"], state["diff"]) == (False, [], "")
    (tmp_path / "a.txt").write_text("two\n" + 30_000 * "a long line\n")
    (tmp_path / "new").write_text("")
    state = git_state(tmp_path)
    assert state is not None
    assert (state["dirty"], state["untracked"]) == (True, ["new"])
    assert "+two" in state["diff"]
    assert state["diff"].endswith("\n")
    assert len(state["diff"]) <= 200_000 < state["diff_characters"]


def test_git_state_outside_a_repository_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None


def test_command_line_is_quoted_for_a_shell() -> None:
    assert command_line(["a=1", "b=[1, 2]"]) == "python -m lmx.train a=1 'b=[1, 2]'"


def test_fingerprint_sees_what_is_computed_and_not_where() -> None:
    def of(*overrides: str) -> str:
        return config_fingerprint(to_dict(compose(overrides)))

    assert of() == of("resume=auto") == of("paths.outputs=elsewhere")
    assert len({of(), of("seed=1"), of("optimizer.lr=2e-3"), of("model=llama_tiny")}) == 4


def test_status_from_running_to_each_end_and_on_again(tmp_path: Path) -> None:
    folder = describe(RunFolder.create(tmp_path, "toy"))
    assert (read_run(folder.path).status, read_run(folder.path).alive) == ("running", True)
    folder.set_status("interrupted", "signal SIGTERM", step=30)
    run = read_run(folder.path)
    assert (run.status, run.reason, run.alive) == ("interrupted", "signal SIGTERM", False)
    folder.set_status("running")
    assert (read_run(folder.path).status, read_run(folder.path).reason) == ("running", None)
    folder.set_status("completed", step=60, result={"val/loss": float("nan"), "val/accuracy": 0.5})
    identity = folder.read_identity()
    assert identity["result"] == {"val/loss": None, "val/accuracy": 0.5}
    assert [(s["status"], s["step"]) for s in identity["sessions"]] == [
        ("interrupted", 30),
        ("completed", 60),
    ]
    assert all(s["started"] <= s["ended"] for s in identity["sessions"])


HOLDER = """
import os, sys, time
from lmx.runs import RunFolder
RunFolder.open(sys.argv[1]).set_status("running")
worker = os.fork()  # as a data loader does
if worker:
    print(worker, flush=True)
time.sleep(60)
"""


def test_a_run_in_training_is_left_alone_and_a_killed_one_is_free(tmp_path: Path) -> None:
    folder = describe(RunFolder.create(tmp_path, "toy"))
    folder.set_status("interrupted")
    command = [sys.executable, "-c", HOLDER, str(folder.path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    try:
        assert read_run(folder.path).status == "running"
        assert newest_unfinished(tmp_path, "toy", "f0") is None
        with pytest.raises(CheckpointError, match="another process is training in this run folder"):
            folder.set_status("running")
        assert len(folder.read_identity()["sessions"]) == 2  # the refused one left no trace
    finally:
        holder.kill()
        holder.wait()
    try:
        os.kill(worker, 0)  # the worker that was left behind still lives, and holds nothing
        run = read_run(folder.path)
        assert (run.status, run.reason) == ("interrupted", "its process ended without a word")
        assert newest_unfinished(tmp_path, "toy", "f0") == folder.path
    finally:
        os.kill(worker, signal.SIGKILL)
    folder.set_status("running")
    folder.set_status("completed")


def test_reading_ones_own_run_does_not_lose_the_hold(tmp_path: Path) -> None:
    folder = describe(RunFolder.create(tmp_path, "toy"))
    for _ in range(3):
        assert read_run(folder.path).alive
    probe = "import sys; from lmx.runs import read_run; sys.exit(not read_run(sys.argv[1]).alive)"
    assert subprocess.run([sys.executable, "-c", probe, str(folder.path)], check=False).returncode == 0
    folder.set_status("failed", "step 3: not finite")


def test_newest_unfinished_run_of_the_same_configuration(tmp_path: Path) -> None:
    def run(status: str, fingerprint: str) -> Path:
        folder = describe(RunFolder.create(tmp_path, "toy"), config_fingerprint=fingerprint)
        folder.set_status(status)
        time.sleep(0.002)
        return folder.path

    assert newest_unfinished(tmp_path, "toy", "f0") is None
    run("interrupted", "f0")
    wanted = run("failed", "f0")
    run("completed", "f0")
    run("interrupted", "other")
    (RunFolder.create(tmp_path, "toy").path / "run.json").write_text("{half")
    assert newest_unfinished(tmp_path, "toy", "f0") == wanted
    assert newest_unfinished(tmp_path, "nothing", "f0") is None


def test_an_atomic_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_json(tmp_path / "a.json", {"old": 1})

    def broken(*arguments: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr("lmx.runs.files.os.replace", broken)
    with pytest.raises(OSError, match="no"):
        write_atomic(path, "new")
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_damaged_identity_is_named(tmp_path: Path) -> None:
    folder = describe(RunFolder.create(tmp_path, "toy"))
    folder.set_status("completed")
    folder.identity.write_text('{"status": ')
    with pytest.raises(CheckpointError, match=r"run\.json: damaged"):
        folder.update_identity(a=1)
    folder.identity.unlink()
    with pytest.raises(CheckpointError, match=r"run\.json: missing"):
        folder.read_identity()
