"""One command, one folder: what a run leaves behind, and where it ends."""

from __future__ import annotations

import functools
import os
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_helpers import (
    Place,
    Start,
    door,
    exact,
    last,
    lines,
    signal_at,
    signal_in_evaluation,
    wait_for_step,
)

from lmx.config import NonFiniteError
from lmx.config.compose import compose
from lmx.config.validate import to_dict
from lmx.data import Tokenizer
from lmx.optim import lr_multiplier
from lmx.runs import read_run
from lmx.train import main
from lmx.training import checkpoints as files
from lmx.training import requeue
from lmx.training.checkpoints import BEST, checkpoints, read_checkpoint
from lmx.training.module import LanguageModule
from lmx.training.resume import load_experiment
from lmx.training.window import Stopwatch

TRAIN_NAMES = {
    *("kind", "step", "epoch", "tokens", "seconds", "flops", "steps", "train/loss", "train/entropy"),
    *("train/accuracy", "train/accuracy_top5", "train/confidence", "train/lr", "train/pi", "train/log_pi"),
    *("train/effective_gamma", "train/grad_norm", "train/grad_norm/embedding", "train/grad_norm/block_00"),
    *("train/grad_norm/block_01", "train/grad_norm/final_norm", "speed/step_seconds", "speed/mfu"),
    *("speed/tokens_per_second", "memory/peak_rss_mib"),
}
VAL_NAMES = {
    *("kind", "step", "epoch", "tokens", "seconds", "flops", "val/loss", "val/perplexity", "val/seconds"),
    *("val/bits_per_byte", "val/word_perplexity", "val/entropy", "val/accuracy", "val/accuracy_top5"),
    *("val/confidence", "val/floor_bits_per_byte", "val/excess_bits_per_byte"),
}


def test_the_folder_of_a_run(place: Place) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        outcome = place.train("train.horizon=20steps", "train.eval_every_steps=8")
    folder = outcome.folder
    assert (outcome.exit_status, outcome.step) == (0, 20)

    overrides = place.overrides("train.horizon=20steps", "train.eval_every_steps=8")
    composed, saved = to_dict(compose(overrides)), to_dict(load_experiment(folder))
    assert saved["model"].pop("vocab_size") == 257
    assert saved["model"].pop("context_length") == 32
    assert composed["model"].pop("vocab_size") is composed["model"].pop("context_length") is None
    assert saved == composed

    run = read_run(folder.path)
    assert not run.problems
    identity = run.identity
    assert (identity["status"], identity["reason"], identity["total_steps"]) == ("completed", None, 20)
    assert identity["overrides"] == overrides
    assert identity["steps_per_epoch"] == 14
    assert identity["parameters"]["total"] == sum(
        value.numel() for value in last(folder)["state_dict"].values()
    )
    tokenizer = Tokenizer.load(folder.tokenizer)
    assert identity["tokenizer"]["fingerprint"] == tokenizer.fingerprint
    assert identity["data"]["fingerprint"] == last(folder)["lmx"]["corpus"]

    train, val = lines(folder, "train"), lines(folder, "val")
    assert all(set(line) == TRAIN_NAMES for line in train)
    assert all(set(line) == VAL_NAMES for line in val)
    assert [line["step"] for line in val] == [0, 8, 16, 20]
    assert [line["kind"] for line in lines(folder)[-2:]] == ["train", "val"]
    assert [(line["step"], line["steps"]) for line in train] == [
        *((step, 3) for step in range(3, 19, 3)),
        (20, 2),
    ]
    assert train[-1]["epoch"] == pytest.approx(20 / 14, abs=1e-6)
    # the 111 windows of an epoch, then 6 batches of the second
    assert train[-1]["tokens"] == 32 * (111 + 6 * 8)
    assert train[-1]["flops"] == identity["flops_per_token"] * train[-1]["tokens"]
    assert val[0]["val/loss"] == pytest.approx(5.549, abs=0.05)  # ln 257
    assert val[-1]["val/loss"] < val[0]["val/loss"] - 0.3
    assert identity["result"] == {name: value for name, value in val[-1].items() if name.startswith("val/")}

    names = sorted(path.name for path in folder.checkpoints.iterdir())
    assert names == [f"{role}-00000020.{end}" for role in ("best", "last") for end in ("ckpt", "json")]
    assert [(line["step"], line["prompt"]) for line in run.samples] == [(s, "The") for s in (0, 8, 16, 20)]


def test_two_runs_are_the_same_run(place: Place) -> None:
    overrides = ("train.horizon=4steps", "model.mlp_dropout=0.2")
    assert exact(place.train(*overrides).folder) == exact(place.train(*overrides).folder)
    assert exact(place.train(*overrides, "seed=1").folder) != exact(place.train(*overrides).folder)


def test_samples_do_not_change_training(place: Place) -> None:
    overrides = ("train.horizon=6steps", "train.eval_every_steps=1", "model.residual_dropout=0.1")
    with_samples = place.train(*overrides, "callbacks.samples.temperature=1.5").folder
    plain = tuple(line for line in place.overrides(*overrides) if "samples" not in line)
    from lmx.training import train

    without = train(compose([*plain, "callbacks=none"]), [*plain, "callbacks=none"]).folder
    assert not without.sample_log.exists()
    for name, value in last(with_samples)["state_dict"].items():
        assert value.equal(last(without)["state_dict"][name]), name
    again = place.train(*overrides, "callbacks.samples.temperature=1.5").folder
    assert again.sample_log.read_bytes() == with_samples.sample_log.read_bytes()


def test_the_rate_of_each_step_is_the_schedules(place: Place) -> None:
    folder = place.train(
        "train.horizon=9steps",
        "train.log_every_steps=1",
        "schedule.warmup_steps=3",
        "schedule.warmup_fraction=0",
    ).folder
    schedule = load_experiment(folder).schedule
    rates = [1e-3 * lr_multiplier(schedule, step, 9) for step in range(9)]
    assert [line["train/lr"] for line in lines(folder, "train")] == pytest.approx(rates, rel=1e-12)
    assert rates[2] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("horizon", "steps"),
    [("2epochs", 28), ("0.5epochs", 7), ("2560tokens", 10), ("2.5ktokens", 10), ("11steps", 11)],
)
def test_horizons(horizon: str, steps: int, place: Place) -> None:
    folder = place.train(f"train.horizon={horizon}", "train.eval_at_start=false").folder
    assert lines(folder)[-1]["step"] == steps
    assert folder.read_identity()["total_steps"] == steps


def test_a_horizon_in_hours_ends_by_the_clock(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0  # a step takes a second
    monkeypatch.setattr(Stopwatch, "seconds", property(lambda watch: float(made)))
    step = LanguageModule.training_step

    def counted(module: LanguageModule, batch: dict[str, torch.Tensor], index: int) -> None:
        nonlocal made
        step(module, batch, index)
        made += 1

    monkeypatch.setattr(LanguageModule, "training_step", counted)
    outcome = place.train("train.horizon=0.005hours", "schedule=constant")  # 18 seconds
    assert (outcome.exit_status, outcome.step) == (0, 18)
    assert lines(outcome.folder, "val")[-1]["step"] == 18
    identity = outcome.folder.read_identity()
    assert (identity["status"], identity["reason"]) == ("completed", "horizon of 0.005 hours reached")
    assert identity["total_steps"] is None
    log = outcome.folder.metrics.read_bytes()
    outcome.folder.set_status("running")  # as a kill before the last word leaves it
    again = place.resume(outcome.folder)
    assert again.step == 18
    assert again.folder.metrics.read_bytes() == log
    assert again.folder.read_identity()["reason"] == identity["reason"]


def test_seconds_are_of_training_alone_also_over_a_resume(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes a second; an evaluation's batch and a save take a thousand, which nobody counts."""
    now = 0.0

    def lasting(seconds: float, original: Any) -> Any:
        @functools.wraps(original)
        def longer(*arguments: Any, **options: Any) -> Any:
            nonlocal now
            now += seconds
            return original(*arguments, **options)

        return longer

    monkeypatch.setattr("lmx.training.window.time", SimpleNamespace(perf_counter=lambda: now))
    slow = ((LanguageModule, "training_step", 1), (LanguageModule, "validation_step", 1000))
    for owner, name, seconds in (*slow, (files, "write_checkpoint", 1000)):
        monkeypatch.setattr(owner, name, lasting(seconds, getattr(owner, name)))
    with monkeypatch.context() as patch:
        signal_at(patch, 5)
        folder = place.train(
            "train.horizon=9steps", "train.eval_every_steps=4", "checkpoint.every_steps=2"
        ).folder
    assert place.resume(folder).step == 9
    assert [line["seconds"] for line in lines(folder)] == [line["step"] for line in lines(folder)]
    assert [line["speed/step_seconds"] for line in lines(folder, "train")] == [1.0] * 3


# ---- endings


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_ends_the_run_at_a_step(
    number: int, status: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    signal_at(monkeypatch, 4, number)
    outcome = place.train("train.horizon=20steps", "train.log_every_steps=3")
    assert (outcome.exit_status, outcome.step) == (status, 4)
    identity = outcome.folder.read_identity()
    assert (identity["status"], identity["reason"]) == (
        "interrupted",
        f"signal {signal.Signals(number).name}",
    )
    assert last(outcome.folder)["lmx"]["step"] == 4
    assert [(line["kind"], line["step"]) for line in lines(outcome.folder)] == [("val", 0), ("train", 3)]
    assert [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_slurm_is_asked_to_queue_the_job_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it warned of the end of the allocation, and the command goes on with the run that it finds."""
    asked = tmp_path / "asked"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    signal_at(monkeypatch, 2, signal.SIGUSR1)
    assert main(place.overrides("train.horizon=9steps")) == 138
    assert "SLURM job 41 is not queued again: its command has no resume=auto" in capsys.readouterr().out
    assert not asked.exists()
    assert main(place.overrides("train.horizon=8steps", "resume=auto")) == 138
    assert asked.read_text() == "requeue 41\n"
    scontrol.write_text("#!/bin/sh\necho 'Invalid job id' >&2; exit 1\n")
    assert requeue(resumes=True) == "SLURM job 41 cannot be queued again: Invalid job id"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert requeue(resumes=True) is None


def test_a_signal_after_all_is_computed_finds_the_run_complete(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes in the last batch of the last evaluation; before, it breaks the evaluation off."""
    signal_in_evaluation(monkeypatch, 4, batch=1)
    outcome = place.train("train.horizon=4steps", "train.eval_batch_size=64")
    assert (outcome.exit_status, outcome.step) == (0, 4)
    assert lines(outcome.folder, "val")[-1]["step"] == 4
    assert outcome.folder.read_identity()["status"] == "completed"


def test_a_second_signal_ends_at_once(place: Place, start: Start) -> None:
    """The step after the first signal takes for ever; what was saved before stays good."""
    arguments = place.overrides(
        "train.horizon=100000steps", "checkpoint.every_steps=2", "train.log_every_steps=1"
    )
    process = start(stuck_door, arguments)
    folder = wait_for_step(place.outputs, 5, process.is_alive)
    process.terminate()
    process.join(0.5)
    assert process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == 130
    run = read_run(folder)
    assert (run.status, run.identity["status"]) == ("interrupted", "running")
    assert last(run.folder)["lmx"]["step"] == 4


def stuck_door(arguments: list[str]) -> None:
    """A trainer that hangs in its sixth step."""
    accumulate = LanguageModule._accumulate

    def hang(module: LanguageModule, batch: dict[str, object]) -> object:
        while module.step == 5:
            signal.pause()
        return accumulate(module, batch)

    LanguageModule._accumulate = hang  # type: ignore[assignment]
    door(arguments)


def test_a_gradient_that_is_not_finite_stops_before_the_weights(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, object] = {}
    accumulate = LanguageModule._accumulate

    def poison(module: LanguageModule, batch: dict[str, torch.Tensor]) -> object:
        parts = accumulate(module, batch)
        if module.step == 4:
            poisoned = dict(module.model.named_parameters())["blocks.1.feed_forward.down.weight"]
            assert poisoned.grad is not None
            poisoned.grad[0, 0] = float("inf")
            seen.update(module=module, rows=batch["index"].tolist())
            seen["weights"] = {name: value.clone() for name, value in module.state_dict().items()}
        return parts

    monkeypatch.setattr(LanguageModule, "_accumulate", poison)
    with pytest.raises(
        NonFiniteError, match=r"^step 5: the gradient of blocks\.1\.feed_forward\.down\.weight"
    ):
        place.train("train.horizon=20steps")
    module, weights = seen["module"], seen["weights"]
    assert isinstance(module, LanguageModule)
    assert isinstance(weights, dict)
    assert all(value.equal(weights[name]) for name, value in module.state_dict().items())
    run = read_run(place.runs()[0])
    assert run.status == "failed"
    rows = ", ".join(map(str, seen["rows"]))  # type: ignore[call-overload]
    assert f"windows {rows})" in str(run.reason)
    assert run.identity["sessions"][-1]["step"] == 4

    capsys.readouterr()
    assert main(place.overrides("train.horizon=20steps")) == 3
    assert (
        capsys.readouterr().err.strip().startswith("lmx: step 5: the gradient of blocks.1.feed_forward.down")
    )


def test_weights_that_are_not_finite_are_noticed_at_their_first_step(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = LanguageModule.on_train_start

    def poison(module: LanguageModule) -> None:
        start(module)
        module.model.embedding.weight.data[5] = float("nan")

    monkeypatch.setattr(LanguageModule, "on_train_start", poison)
    message = r"^step 1: the loss of finite hidden states .* is not finite \(loss nan, windows"
    with pytest.raises(NonFiniteError, match=message):
        place.train("train.horizon=20steps", "train.eval_at_start=false")
    with pytest.raises(NonFiniteError, match=r"^step 0: the validation loss is nan$"):
        place.train("train.horizon=20steps")


def test_best_is_the_best_and_not_the_last(place: Place) -> None:
    """With a rate that diverges late, the best is an early one."""
    folder = place.train(
        *("train.horizon=12steps", "train.eval_every_steps=2", "schedule=constant", "optimizer=sgd"),
        *("optimizer.lr=0", "checkpoint.best=val/accuracy", "checkpoint.every_steps=3"),
    ).folder
    best = checkpoints(folder.checkpoints, BEST)
    assert [path.name for path in best] == ["best-00000002.ckpt"]  # equal measures: the first; never step 0
    assert read_checkpoint(best[0])["lmx"]["step"] == 2
    folder = place.train("train.horizon=6steps", "train.eval_every_steps=1", "checkpoint.best=null").folder
    assert not checkpoints(folder.checkpoints, BEST)


def test_early_stopping_evaluates_records_and_says_why(place: Place) -> None:
    folder = place.train(
        *("train.horizon=50steps", "train.eval_every_steps=2", "optimizer=sgd", "optimizer.lr=0"),
        *("callbacks=early_stopping", "callbacks.early_stopping.patience=3"),
    ).folder
    assert [line["step"] for line in lines(folder, "val")] == [0, 2, 4, 6]
    assert sum(line["steps"] for line in lines(folder, "train")) == 6
    identity = folder.read_identity()
    assert identity["status"] == "completed"
    assert identity["reason"] == "val/loss did not improve in 3 evaluations"
    assert last(folder)["lmx"]["step"] == 6
