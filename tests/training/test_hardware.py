"""What `auto` becomes, and the room on the disk that is looked at before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmx.config import ConfigError, HardwareConfig, SpaceError
from lmx.config.compose import compose
from lmx.measure import checkpoint_space
from lmx.training import hardware, space
from lmx.training.hardware import COMPILE_FLOPS_CPU, COMPILE_STEPS_GPU, choose


@pytest.mark.parametrize(
    ("asked", "accelerator", "steps", "step_flops", "compiled"),
    [
        ("auto", "cpu", 100, COMPILE_FLOPS_CPU / 100, True),
        ("auto", "cpu", 99, COMPILE_FLOPS_CPU / 100, False),
        ("auto", "gpu", COMPILE_STEPS_GPU, 0.0, True),
        ("auto", "gpu", COMPILE_STEPS_GPU - 1, 1e30, False),
        ("auto", "cpu", None, 0.0, True),  # hours
        ("on", "cpu", 1, 0.0, True),
        ("off", "gpu", None, 1e30, False),
    ],
)
def test_long_runs_are_compiled(
    asked: str,
    accelerator: str,
    steps: int | None,
    step_flops: float,
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda name: name)
    assert hardware._compile(asked, accelerator, steps, step_flops)[0] == compiled
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    if (asked, accelerator) == ("auto", "cpu"):
        assert not hardware._compile(asked, accelerator, steps, step_flops)[0], "there is no compiler"


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_without_a_gpu(native: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: native)
    chosen = choose(HardwareConfig(), total_steps=1)
    assert (chosen.accelerator, chosen.precision, chosen.compile) == ("cpu", precision, False)
    assert "no GPU was found" in chosen.describe()
    with pytest.raises(ConfigError, match=r"^hardware\.accelerator: got 'gpu', allowed here: cpu, auto"):
        choose(HardwareConfig(accelerator="gpu"), total_steps=1)


def test_no_more_threads_than_cores_but_as_many_as_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: 2)
    found = []
    for asked in (None, 3, 1):
        torch.set_num_threads(4)
        found.append(choose(HardwareConfig(accelerator="cpu", threads=asked), total_steps=1).threads)
    torch.set_num_threads(1)
    found.append(choose(HardwareConfig(accelerator="cpu"), total_steps=1).threads)
    assert found == [2, 3, 1, 1]


def test_what_a_resumed_run_has_saved_is_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ("model.vocab_size=300", "model.context_length=64", "data.sequence_length=64", "tokenizer=byte")
    experiment = compose(shape)
    needed = checkpoint_space(experiment.model, experiment.optimizer, experiment.checkpoint).total
    usage = SimpleNamespace(free=needed - 100)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: usage)
    (tmp_path / "last-00000002.ckpt").write_bytes(b"\0" * 100)
    assert "checkpoints take up to" in space.check_space(experiment, tmp_path, tmp_path)
    with pytest.raises(SpaceError, match=r"^paths\.outputs: the disk of "):
        space.check_space(experiment, tmp_path)
    usage.free += 100
    space.check_space(experiment, tmp_path)
