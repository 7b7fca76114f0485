"""Promise 1: a run that was stopped, however, and resumed ends as the run that never was."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from training_helpers import (
    Place,
    Start,
    door,
    exact,
    last,
    lines,
    same_end,
    signal_at,
    signal_in_evaluation,
    wait_for_step,
)

from lmx.config import CheckpointError, ConfigError
from lmx.runs import RunFolder, lock, read_run
from lmx.training import fit
from lmx.training.checkpoints import LAST, checkpoints, read_checkpoint, step_of
from lmx.training.randomness import random_state, restore_random_state, seed_all

DROPOUT = ("model.residual_dropout=0.1", "model.embedding_dropout=0.1")
CASES = {
    # the stop is after 13 of 14 batches of the epoch; 5 does not divide it
    "accumulated": (
        13,
        ("hardware.micro_batch_size=2", "train.log_every_steps=5", "train.eval_every_steps=6"),
    ),
    # the stop is in the second epoch, on a step with an evaluation and a checkpoint
    "muon, bf16, workers": (
        16,
        (
            *("optimizer=muon", "hardware.precision=bf16", "data.num_workers=2"),
            *("train.eval_every_steps=8", "checkpoint.every_steps=4", "hardware.micro_batch_size=4"),
        ),
    ),
    "documents, best by accuracy": (
        5,
        (
            *("data.packing=documents", "model.attend_within_documents=true", "train.eval_every_steps=2"),
            *("checkpoint.best=val/accuracy", "callbacks=early_stopping", "schedule=wsd"),
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_ends_bit_identical(case: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, changes = CASES[case]
    # the one that the signal wrote does not stay beside the last
    overrides = (*DROPOUT, *changes, "train.horizon=20steps", "checkpoint.keep_last=1")
    whole = place.train(*overrides).folder
    with monkeypatch.context() as patch:
        signal_at(patch, stop)
        stopped = place.train(*overrides)
    assert (stopped.exit_status, stopped.step) == (143, stop)
    assert max(line["step"] for line in lines(stopped.folder)) <= stop
    resumed = place.resume(stopped.folder)
    assert (resumed.exit_status, resumed.step) == (0, 20)
    same_end(whole, resumed.folder)
    names = [sorted(path.name for path in folder.checkpoints.iterdir()) for folder in (whole, resumed.folder)]
    assert names[0] == names[1]
    assert whole.sample_log.read_bytes() == resumed.folder.sample_log.read_bytes()


EVALUATIONS = (
    *("train.eval_every_steps=4", "train.eval_batch_size=4", "train.log_every_steps=3"),
    *("checkpoint.every_steps=4", "train.horizon=10steps", "optimizer.lr=1e-2"),
)


@pytest.mark.parametrize("step", [0, 4, 10])
def test_an_evaluation_that_a_signal_broke_off_is_made_again(
    step: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first, one between, and the last, which leaves no step to train."""
    whole = place.train(*DROPOUT, *EVALUATIONS).folder
    with monkeypatch.context() as patch:
        signal_in_evaluation(patch, step)
        stopped = place.train(*DROPOUT, *EVALUATIONS)
    assert (stopped.exit_status, stopped.step) == (143, step)
    assert stopped.folder.read_identity()["status"] == "interrupted"
    assert step not in [line["step"] for line in lines(stopped.folder, "val")]
    assert last(stopped.folder)["lmx"]["step"] == step
    resumed = place.resume(stopped.folder)
    assert (resumed.exit_status, resumed.step) == (0, 10)
    same_end(whole, resumed.folder)
    assert whole.sample_log.read_bytes() == resumed.folder.sample_log.read_bytes()
    assert resumed.folder.read_identity()["result"]["val/loss"] == lines(whole, "val")[-1]["val/loss"]


STOPPING = (
    *("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer=sgd", "optimizer.lr=0"),
    *("train.eval_every_steps=4", "train.eval_batch_size=4", "train.horizon=50steps", "schedule=constant"),
)


def test_an_evaluation_made_again_may_end_the_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = place.train(*STOPPING)
    assert whole.step == 4
    with monkeypatch.context() as patch:
        signal_in_evaluation(patch, 4)
        stopped = place.train(*STOPPING)
    assert (stopped.exit_status, stopped.step) == (143, 4)
    resumed = place.resume(stopped.folder)
    assert (resumed.exit_status, resumed.step) == (0, 4)
    assert "did not improve" in resumed.folder.read_identity()["reason"]
    assert exact(resumed.folder) == exact(whole.folder)


def test_callbacks_of_one_class_keep_a_state_each(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (
        *("callbacks=early_stopping", "train.eval_every_steps=2", "train.horizon=12steps"),
        "+callbacks.second={_target_: lmx.training.callbacks.EarlyStopping, monitor: val/accuracy}",
        "+callbacks.more={_target_: lmx.training.callbacks.Samples, prompts: [A], max_new_tokens: 2}",
    )
    whole = place.train(*overrides).folder
    with monkeypatch.context() as patch:
        signal_at(patch, 7)
        stopped = place.train(*overrides).folder
    resumed = place.resume(stopped).folder
    same_end(whole, resumed)
    states = [last(folder)["callbacks"] for folder in (whole, resumed)]
    for name in ("early_stopping", "second"):
        assert states[0][f"EarlyStopping/{name}"] == states[1][f"EarlyStopping/{name}"]
    assert states[0]["EarlyStopping/early_stopping"] != states[0]["EarlyStopping/second"]
    assert whole.sample_log.read_bytes() == resumed.sample_log.read_bytes()
    assert "Samples" in last(place.train("train.horizon=1steps").folder)["callbacks"], "as it always was"


@pytest.mark.parametrize("saves", [(), ("checkpoint.every_steps=4",)])
def test_a_run_that_was_ended_stays_ended(
    saves: tuple[str, ...], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal in the step that ended it, or a kill before its status said so."""
    whole = place.train(*STOPPING, *saves)
    records = exact(whole.folder)
    with monkeypatch.context() as patch:
        signal_at(patch, 4)
        stopped = place.train(*STOPPING, *saves)
    assert (stopped.exit_status, stopped.step) == (143, 4)
    whole.folder.set_status("failed", "killed")
    for folder in (stopped.folder, whole.folder):
        resumed = place.resume(folder)
        assert (resumed.exit_status, resumed.step) == (0, 4)
        assert exact(folder) == records
        assert "did not improve" in folder.read_identity()["reason"]


def test_a_longer_horizon_has_patience_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is stopped before its first evaluation."""
    ended = place.train(*STOPPING, "callbacks.early_stopping.patience=2")
    assert ended.step == 8
    with monkeypatch.context() as patch:
        signal_at(patch, 10)
        assert place.resume(ended.folder, "train.horizon=60steps").step == 10
    folder = ended.folder
    assert place.resume(folder).step == 16
    assert folder.read_identity()["status"] == "completed"


def test_dropout_makes_the_comparison_sharp(place: Place) -> None:
    """Were random states not restored, the runs above would differ."""
    first = place.train(*DROPOUT, "train.horizon=2steps").folder
    second = place.train("train.horizon=2steps").folder
    assert exact(first) != exact(second)


def test_every_generator_is_seeded_and_goes_on_where_it_was() -> None:
    """Of numpy and Python too, from which callbacks of others may draw."""

    def draw() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    seed_all(3)
    first, state, second = draw(), random_state(), draw()
    restore_random_state(state)
    assert draw() == second
    seed_all(3)
    assert draw() == first
    assert not set(first) & set(second)


def test_a_killed_run_is_found_and_ends_bit_identical(place: Place, start: Start) -> None:
    overrides = (*DROPOUT, "train.horizon=40steps", "checkpoint.every_steps=3", "checkpoint.keep_last=2")
    process = start(door, place.overrides(*overrides))
    killed = wait_for_step(place.outputs, 9, process.is_alive)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resumed = place.train(*overrides, "resume=auto")
    assert resumed.folder.path.resolve() == killed.resolve()
    assert resumed.step == 40
    identity = resumed.folder.read_identity()
    assert identity["status"] == "completed"
    assert len(identity["sessions"]) == 2
    other = Place(place.outputs.parent / "whole", place.cache)
    same_end(other.train(*overrides).folder, resumed.folder)


def test_auto_starts_a_new_run_after_a_completed_one(place: Place) -> None:
    first = place.train("train.horizon=2steps", "resume=auto")
    second = place.train("train.horizon=2steps", "resume=auto")
    assert first.folder.path != second.folder.path


def test_a_run_killed_before_its_first_checkpoint_starts_again_in_its_folder(place: Place) -> None:
    whole = place.train("train.horizon=4steps").folder
    before = exact(whole)
    for path in whole.checkpoints.iterdir():
        path.unlink()
    (whole.checkpoints / "last-00000002.tmp").write_bytes(b"half")
    (whole.checkpoints / "last-00000002.ckpt").write_bytes(b"a whole one whose manifest was not written")
    whole.set_status("running")
    resumed = place.resume(whole)
    assert resumed.step == 4
    assert exact(resumed.folder) == before
    assert {path.stem for path in whole.checkpoints.iterdir()} == {"last-00000004", "best-00000004"}


def test_a_longer_horizon_goes_on(place: Place) -> None:
    whole = place.train("schedule=constant", "train.horizon=10steps").folder
    short = place.train("schedule=constant", "train.horizon=5steps").folder
    longer = place.resume(short, "train.horizon=10steps")
    assert longer.step == 10
    assert sum(line["steps"] for line in lines(longer.folder, "train")) == 10
    assert yaml.safe_load(short.config.read_text())["train"]["horizon"] == "10steps"
    assert short.read_identity()["total_steps"] == 10
    assert last(whole)["state_dict"].keys() == last(short)["state_dict"].keys()
    for name, value in last(whole)["state_dict"].items():
        assert value.equal(last(short)["state_dict"][name]), name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.lr=0.1",
            r"^optimizer\.lr: cannot differ in a resumed run, allowed: train\.horizon, hardware",
        ),
        ("optimizer=muon", r"^optimizer: cannot differ in a resumed run"),
        ("~callbacks.samples", r"^callbacks\.samples: cannot differ in a resumed run"),
        ("train.horizon=4steps", r"already completed at step 4; a longer train\.horizon continues it"),
        ("train.horizon=2steps", r"^train\.horizon: got '2steps', allowed: more than the 4 steps of "),
        (
            "train.horizon=128tokens",
            r"^train\.horizon: got '128tokens', allowed: at least one step|more than the 4",
        ),
    ],
)
def test_a_forbidden_change_is_refused_and_nothing_lost(override: str, message: str, place: Place) -> None:
    folder = place.train("train.horizon=4steps").folder
    before = {path.name: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=message):
        place.resume(folder, override)
    assert {path.name: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_hardware_and_loggers_may_change(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        signal_at(patch, 3)
        folder = place.train("train.horizon=6steps", "logger=tensorboard").folder
    changes = (
        "~logger.tensorboard",
        "hardware.micro_batch_size=2",
        "+logger.csv={_target_: lightning.pytorch.loggers.CSVLogger}",
    )
    assert place.resume(folder, *changes, "checkpoint.every_steps=1", "checkpoint.keep_last=3").step == 6
    assert [step_of(path) for path in checkpoints(folder.checkpoints, LAST)] == [6, 5, 4]
    assert list((folder.path / "csv").glob("*.csv"))
    config = yaml.safe_load(folder.config.read_text())
    assert config["hardware"]["micro_batch_size"] == 2
    assert list(config["logger"]) == ["csv"]
    assert config["model"]["hidden_size"] == 32


def test_killed_after_the_last_checkpoint_only_the_status_is_missing(place: Place) -> None:
    folder = place.train("train.horizon=4steps", "checkpoint.every_steps=2").folder
    before, weights = exact(folder), last(folder)["state_dict"]
    windows = {path.name: path.read_bytes() for path in folder.windows.iterdir()}
    result = folder.read_identity()["result"]
    folder.update_identity(result=None)
    folder.set_status("running")
    folder.set_status("failed", "killed")
    resumed = place.resume(folder)
    assert (resumed.exit_status, resumed.step) == (0, 4)
    assert exact(folder) == before
    assert last(folder)["state_dict"].keys() == weights.keys()
    assert {path.name: path.read_bytes() for path in folder.windows.iterdir()} == windows
    assert folder.read_identity()["status"] == "completed"
    assert folder.read_identity()["result"] == result


def test_a_source_of_weights_is_not_needed_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place.train("train.horizon=2steps").folder
    with monkeypatch.context() as patch:
        signal_at(patch, 2)
        folder = place.train("train.horizon=4steps", f"init_from={source.path}").folder
    source.path.rename(source.path.with_name("moved"))
    assert place.resume(folder).step == 4


def test_a_run_that_is_in_training_is_left_alone(place: Place, start: Start) -> None:
    process = start(door, place.overrides("train.horizon=100000steps", "checkpoint.every_steps=5"))
    folder = wait_for_step(place.outputs, 9, process.is_alive)
    with pytest.raises(CheckpointError, match="another process is training in this run folder"):
        place.resume(RunFolder(folder))
    assert process.is_alive()
    process.terminate()
    process.join()
    assert process.exitcode == 143


def test_a_run_is_looked_at_when_nobody_else_can_write_into_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends just then could remove the checkpoint that was found."""
    folder = place.train("train.horizon=4steps").folder
    folder.set_status("failed", "killed")
    seen: dict[str, bool] = {}

    def watched(name: str, original: Any) -> Any:
        def look(*arguments: Any) -> Any:
            seen[name] = lock.held(folder.path)
            return original(*arguments)

        return look

    looks = ("newest_good", "load_experiment", "check_space", "_check_horizon")
    for name in looks:
        monkeypatch.setattr(fit, name, watched(name, getattr(fit, name)))
    place.resume(folder)
    assert seen == dict.fromkeys(looks, True)
    with pytest.raises(ConfigError, match="already completed"):
        place.resume(folder)
    assert not lock.held(folder.path), "what was refused is not in training"


def test_a_checkpoint_that_came_after_the_look_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where locks do not work, as on some network file systems."""
    folder = place.train("train.horizon=4steps", "checkpoint.every_steps=2", "checkpoint.keep_last=2").folder
    folder.set_status("failed", "killed")
    newest, older = checkpoints(folder.checkpoints, LAST)

    def too_early(*arguments: Any) -> Any:
        found = read_checkpoint(older)
        for ending in (".ckpt", ".json"):
            older.with_suffix(ending).unlink()
        return older, found

    monkeypatch.setattr(fit, "newest_good", too_early)
    with pytest.raises(CheckpointError, match=r"last-00000002\.ckpt: no such checkpoint"):
        place.resume(folder)
    assert checkpoints(folder.checkpoints, LAST) == [newest]


def test_a_shortened_log_is_told_of(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """By its own line and in the record; lines of later steps are not taken for those that are gone."""
    folder = place.train(
        *("train.horizon=9steps", "checkpoint.every_steps=6", "checkpoint.keep_last=2"),
        "+callbacks.more={_target_: lmx.training.callbacks.Samples, prompts: [A], max_new_tokens: 2}",
    ).folder
    records, size = exact(folder), last_position(folder, 6)
    for ending in (".ckpt", ".json"):
        (folder.checkpoints / f"last-00000009{ending}").unlink()
    folder.set_status("failed", "killed")
    kept = folder.metrics.read_bytes().splitlines(keepends=True)[0]
    # what a session wrote that went on from the shortened log and was killed, longer than what is gone
    folder.metrics.write_bytes(kept + b'{"kind":"train","step":9,"train/loss":1.0}\n' * 100 + b'{"torn')
    folder.sample_log.write_bytes(b"")
    capsys.readouterr()
    assert place.resume(folder).step == 9
    problem = (
        f"metrics.jsonl: {size - len(kept):,} bytes of the records up to step 6 were gone when the run went "
        "on from there"
    )
    assert problem in capsys.readouterr().err.splitlines()
    found = read_run(folder.path)
    assert found.problems[0] == problem
    assert found.problems[1].startswith("samples.jsonl: ")
    assert exact(folder) == [line for line in records if line["step"] in (0, 9)]


def last_position(folder: RunFolder, step: int) -> int:
    """How far the records were written when the checkpoint of a step was."""
    checkpoint = read_checkpoint(folder.checkpoints / f"last-{step:08d}.ckpt")
    return int(checkpoint["callbacks"]["Recorder"]["position"])
