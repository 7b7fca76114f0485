"""DDP: two processes make the run of one, and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from training_helpers import Place, last, lines, same_end, signal_at

from lmx.config import DataError, LmxError, NonFiniteError, RankError
from lmx.runs import RunFolder, read_windows
from lmx.train import main
from lmx.training import rank
from lmx.training.distributed import RANK_VARIABLES, _Launcher
from lmx.training.ending import Ending, Signals
from lmx.training.nonfinite import Trouble
from lmx.training.window import Stopwatch

STEPS = ("train.horizon=16steps", "train.eval_every_steps=8", "optimizer=sgd", "optimizer.lr=0.1")
# 13 test windows do not divide by two; sentences have rows of unequal tokens
TWO = ("hardware=ddp_cpu", "hardware.micro_batch_size=2")


def children() -> list[str]:
    """Command lines of the processes that this one has started and that still live."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, IndexError):
            continue
        if parent == str(os.getpid()) and "lmx.training.rank" in command:
            found.append(command)
    return found


def close(left: RunFolder, right: RunFolder) -> None:
    """Assert that two runs agree to rounding."""
    for one, other in zip(lines(left), lines(right), strict=True):
        for name in ("kind", "step", "tokens", "flops", "epoch"):
            assert one[name] == other[name]
        for name, value in one.items():
            if name.startswith(("train/", "val/")) and name != "val/seconds":
                assert other[name] == pytest.approx(value, rel=2e-4), name
    for name in ("best.npz", "last.npz"):
        one, other = (read_windows(folder.windows / name) for folder in (left, right))
        assert one is not None
        assert other is not None
        assert (one.step, one.tokens.tolist()) == (other.step, other.tokens.tolist())
        assert one.loss == pytest.approx(other.loss, rel=2e-4)
    first, second = last(left)["state_dict"], last(right)["state_dict"]
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=2e-6)


def nothing_left() -> None:
    """Assert that a next job starts clean."""
    assert not dist.is_initialized()
    assert not [name for name in RANK_VARIABLES if name in os.environ]
    assert children() == []


def test_two_processes_make_the_run_of_one(place: Place) -> None:
    """In a first and in a second job, as in a sweep: of sentences, whose rows have unequal tokens."""
    packing = ("data.packing=sentences", "data.sequence_length=64", "data.stories=20")
    single = place.train(*STEPS, *packing).folder
    double = place.train(*STEPS, *packing, *TWO).folder
    nothing_left()
    assert double.read_identity()["hardware"]["devices"] == 2
    close(single, double)
    # the untrained weights are the same: an evaluation by two processes is that of one
    one, other = (lines(folder, "val")[0] for folder in (single, double))
    assert one["step"] == other["step"] == 0
    for name in ("val/loss", "val/entropy", "val/accuracy", "val/bits_per_byte"):
        assert other[name] == pytest.approx(one[name], rel=1e-6), name


@pytest.mark.slow
def test_a_second_job_and_a_resumed_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*STEPS, *TWO, "model.residual_dropout=0.1", "checkpoint.every_steps=3")
    whole = place.train(*overrides).folder
    nothing_left()
    with monkeypatch.context() as patch:
        signal_at(patch, 11)
        stopped = place.train(*overrides)
    assert (stopped.exit_status, stopped.step) == (143, 11)
    nothing_left()
    assert len(last(stopped.folder)["lmx"]["random"]) == 2
    same_end(whole, place.resume(stopped.folder).folder)
    nothing_left()
    assert place.train("train.horizon=2steps").step == 2


def test_a_lost_rank_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gloo, whose threads may take this process along when their peer is gone."""

    def launch(launcher: _Launcher, function: object, **_: object) -> None:
        launcher.procs = [subprocess.Popen(["sleep", "60"])]
        launcher.procs[0].kill()
        launcher.procs[0].wait()
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(_SubprocessScriptLauncher, "launch", launch)
    launcher = _Launcher(RunFolder(tmp_path), None, 2, 1)
    with pytest.raises(RankError, match=r"rank 1 was ended by SIGKILL; go on with python .* resume="):
        launcher.launch(print)
    nothing_left()


def test_a_rank_that_is_about_to_end_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[Any] = []

    def launch(launcher: _Launcher, function: object, **_: object) -> None:
        launcher.procs = [subprocess.Popen("sleep 0.5; exit 2", shell=True)]
        watched.append(launcher.procs)
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(_SubprocessScriptLauncher, "launch", launch)
    with pytest.raises(RankError, match=r"^rank 1 ended with exit status 2, for the reason above; go on"):
        _Launcher(RunFolder(tmp_path), None, 2, 1).launch(print)
    assert watched == [[]], "Lightning's observer would kill this process for a rank that has ended"


SPOIL = """
import math
from pathlib import Path
import lightning.pytorch as pl

class Spoil(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_rank == 1 and module.step == 3:
            layer = module.model.blocks[1].feed_forward
            layer.register_forward_hook(lambda layer, inputs, output: output * math.inf)
            Path(__file__).with_suffix(".txt").write_text(", ".join(map(str, batch["index"].tolist())))
"""


def test_trouble_on_one_rank_is_told_once_with_its_windows(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spoil.py").write_text(SPOIL)
    monkeypatch.syspath_prepend(tmp_path)  # here, and in the other process
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("LMX_ALLOW_TARGETS", "spoil.Spoil")
    overrides = place.overrides(*STEPS, *TWO, "+callbacks.spoil={_target_: spoil.Spoil}")
    place.train("train.horizon=1steps")  # the corpus is prepared
    capfd.readouterr()
    assert main(overrides) == 3
    error = capfd.readouterr().err
    windows = (tmp_path / "spoil.txt").read_text()
    where = r"the output of blocks\.1\.feed_forward"
    assert re.fullmatch(rf"lmx: step 4: {where} is not finite \(loss nan, windows {windows}\); .*\n", error)
    nothing_left()


def test_the_rank_where_it_began_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(found: list[Trouble], own: Trouble) -> None:
        found[:] = [own, Trouble(0, "b", inf, [5]), Trouble(0, "c", 1.0, [7]), Trouble(0, "b", 1.0, [6])]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    assert Trouble(2, "a", 1.0, [1, 2]).over_ranks() == Trouble(0, "b", inf, [5, 6])


@pytest.mark.parametrize(("error", "said"), [(NonFiniteError("NaN"), ""), (DataError("gone"), "lmx: gone\n")])
def test_a_rank_tells_what_it_alone_met(
    error: LmxError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: RunFolder) -> None:
        raise error

    monkeypatch.setattr(rank.RunFolder, "open", RunFolder)
    monkeypatch.setattr(rank, "fit_rank", fail)
    monkeypatch.setattr(rank, "_end_with", lambda rank_0: None)
    assert rank.main("a run", 1) == error.exit_status
    assert capsys.readouterr().err == said


def test_a_rank_ends_at_once_where_rank_0_is_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = subprocess.run([sys.executable, "-m", "lmx.training.rank", str(tmp_path), str(gone.pid)])
    assert done.returncode == -signal.SIGKILL


def test_ranks_agree_on_the_end_of_the_hours_without_their_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = object()

    def all_reduce(value: torch.Tensor, op: object, group: object) -> None:
        assert op == dist.ReduceOp.MAX
        assert group is hosts
        assert value.device.type == "cpu"
        value.fill_(1)  # the other rank is late

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    ending = Ending(Signals(), 1.0)
    ending._group = hosts  # type: ignore[assignment]
    reasons: list[str] = []
    module: Any = SimpleNamespace(stopwatch=Stopwatch(), stop=reasons.append)
    trainer: Any = SimpleNamespace(world_size=2)
    ending._heed_clock(trainer, module)
    assert reasons == ["horizon of 1.0 hours reached"]
