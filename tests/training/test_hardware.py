"""What `auto` becomes, and the room on the disk that is looked at before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmx import native
from lmx.config import ConfigError, HardwareConfig, SpaceError
from lmx.config.compose import compose
from lmx.measure import checkpoint_space
from lmx.training import hardware, space
from lmx.training.hardware import COMPILE_STEPS_GPU, choose


@pytest.mark.parametrize(
    ("asked", "accelerator", "steps", "compiled"),
    [
        ("auto", "cpu", None, False),  # what C++ does is as fast
        ("auto", "gpu", COMPILE_STEPS_GPU, True),
        ("auto", "gpu", COMPILE_STEPS_GPU - 1, False),
        ("auto", "gpu", None, True),  # hours
        ("on", "cpu", 1, True),
        ("off", "gpu", None, False),
    ],
)
def test_long_runs_are_compiled_on_a_gpu(
    asked: str, accelerator: str, steps: int | None, compiled: bool
) -> None:
    assert hardware._compile(asked, accelerator, steps)[0] == compiled


def test_what_a_missing_compiler_costs_is_said() -> None:
    with native.left_out():
        assert (
            "slower layers: there is no C++ compiler"
            in choose(HardwareConfig(accelerator="cpu"), 1).describe()
        )
    assert "slower" not in choose(HardwareConfig(accelerator="cpu"), 1).describe()


@pytest.mark.parametrize(("capable", "precision"), [(True, "bf16"), (False, "fp32")])
def test_without_a_gpu(capable: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: capable)
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
