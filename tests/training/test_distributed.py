"""DDP: two processes make the run of one, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from training_helpers import Place, last, lines, same_end, signal_at

from lmx.config import RankError
from lmx.runs import RunFolder, read_windows
from lmx.training.distributed import RANK_VARIABLES, _Launcher
from lmx.training.ending import Ending, Signals
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


def test_ranks_agree_on_the_end_of_the_hours_without_their_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = object()

    def all_reduce(value: torch.Tensor, op: object, group: object) -> None:
        assert group is hosts
        assert value.device.type == "cpu"
        value.fill_(1)  # the other rank is late

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    ending = Ending(Signals(), 1.0)
    ending._group = hosts  # type: ignore[assignment]
    trainer, module = SimpleNamespace(world_size=2), SimpleNamespace(stopwatch=Stopwatch())
    assert ending._out_of_time(trainer, module)  # type: ignore[arg-type]
