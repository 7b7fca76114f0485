"""Promises 6 and 8: no checkpoint is lost, a damaged one is named, and none can run code."""

from __future__ import annotations

import errno
import itertools
import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_helpers import WORSENING, Place, equal, exact, last, lines, same_end, signal_at

from lmx.config import CheckpointError, SpaceError
from lmx.runs import RunFolder
from lmx.train import main
from lmx.training import checkpoints as files
from lmx.training.checkpoints import BEST, LAST, checkpoints, newest_good, read_checkpoint, write_checkpoint
from lmx.training.resume import load_weights

EVERY_TWO = ("checkpoint.every_steps=2", "checkpoint.keep_last=3")


def content(value: float) -> dict[str, Any]:
    return {"lmx": {"step": int(value)}, "state_dict": {"weight": torch.full((4,), value)}}


def write(folder: Path, step: int) -> Path:
    path = folder / f"last-{step:08d}.ckpt"
    write_checkpoint(path, content(step), step=step, role=LAST)
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove_manifest(path: Path) -> None:
    path.with_suffix(".json").unlink()


def damage_manifest(path: Path) -> None:
    path.with_suffix(".json").write_text('{"bytes": ')


DAMAGES = {
    "truncated": (
        truncate,
        r"last-00000006\.ckpt: damaged: \d+ bytes, its manifest says \d+; trying the one before",
    ),
    "flipped": (flip, r"last-00000006\.ckpt: damaged: its contents are not those its manifest describes"),
    "no manifest": (remove_manifest, r"last-00000006\.ckpt: not whole: it has no manifest"),
    "no file": (Path.unlink, r"last-00000006\.ckpt: no such checkpoint"),
    "manifest damaged": (damage_manifest, r"last-00000006\.json: damaged manifest"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    damage: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, message = DAMAGES[damage]
    folder = place.train("train.horizon=6steps", *EVERY_TWO).folder
    whole = exact(folder)
    weights = last(folder)["state_dict"]
    harm(checkpoints(folder.checkpoints, LAST)[0])
    folder.set_status("failed", "killed")
    capsys.readouterr()
    resumed = place.resume(folder)
    errors = capsys.readouterr().err
    assert re.search(message, errors), errors
    assert "going on from" in errors
    assert "last-00000004" in errors
    assert resumed.step == 6
    assert equal(last(folder)["state_dict"], weights)
    assert exact(folder) == whole
    assert [path.name for path in checkpoints(folder.checkpoints, LAST)] == [
        f"last-0000000{step}.ckpt" for step in (6, 4, 2)
    ]


def test_a_damaged_newer_one_does_not_displace_the_good(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keep_last=1 a damaged file of a later step must not be what is kept."""
    folder = place.train("train.horizon=6steps", *EVERY_TWO).folder
    flip(checkpoints(folder.checkpoints, LAST)[0])
    folder.set_status("failed", "killed")
    signal_at(monkeypatch, 5)
    assert place.resume(folder, "checkpoint.keep_last=1").step == 5
    assert [path.name for path in checkpoints(folder.checkpoints, LAST)] == ["last-00000005.ckpt"]
    assert last(folder)["lmx"]["step"] == 5


def test_when_all_are_damaged_nothing_is_thrown_away(place: Place) -> None:
    folder = place.train("train.horizon=4steps").folder
    flip(checkpoints(folder.checkpoints, LAST)[0])
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"all its checkpoints are damaged"):
        place.resume(folder, "train.horizon=8steps")
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


class Malicious:
    """Would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "last-00000001.ckpt"
    write_checkpoint(path, {**content(1), "extra": Malicious(mark)}, step=1, role=LAST)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of plain tensors: .*[Ww]eights.only"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="not a checkpoint of plain tensors"):
        load_weights(torch.nn.Linear(1, 1), str(path), print)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists(), "the attack is a real one"


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last-00000001.ckpt"
    write_checkpoint(path, {"weights": torch.zeros(1)}, step=1, role=LAST)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of lmx$"):
        read_checkpoint(path)


@pytest.mark.parametrize("moment", ["while writing", "before renaming", "before the manifest"])
def test_a_kill_during_a_save_leaves_the_one_before(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write(tmp_path, 1)

    def killed(*arguments: Any, **options: Any) -> None:
        if moment == "while writing":
            arguments[1].write(b"half of it")
        raise KeyboardInterrupt

    victims: dict[str, tuple[Any, str]] = {
        "while writing": (torch, "save"),
        "before renaming": (Path, "replace"),
        "before the manifest": (files, "write_json"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*victims[moment], killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, 2)
    found = newest_good(tmp_path, LAST, lambda text: None)
    assert found is not None
    assert found[0] == before
    assert found[1]["state_dict"]["weight"].equal(torch.ones(4))
    after = write(tmp_path, 2)
    files.remove_others(tmp_path, LAST, [after])
    assert {path.name for path in tmp_path.iterdir()} == {"last-00000002.ckpt", "last-00000002.json"}


def test_a_step_is_saved_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second save of the same step would for a moment leave no whole checkpoint."""
    written: list[str] = []
    original = files.write_checkpoint

    def counting(path: Path, *arguments: Any, **facts: Any) -> None:
        written.append(path.name)
        original(path, *arguments, **facts)

    monkeypatch.setattr(files, "write_checkpoint", counting)
    place.train("train.horizon=4steps", "checkpoint.every_steps=2")
    assert sorted(written) == ["best-00000004.ckpt", "last-00000002.ckpt", "last-00000004.ckpt"]


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let torch.save meet a full disk at the third checkpoint or so."""
    save, calls = torch.save, []

    def full(checkpoint: Any, file: Any) -> None:
        calls.append(1)
        if len(calls) > after:
            file.write(b"a part")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", full)


def test_a_full_disk_says_so_and_keeps_what_there_is(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (
        *("train.horizon=20steps", "checkpoint.every_steps=2", "checkpoint.keep_last=1"),
        "checkpoint.best=null",
    )
    with monkeypatch.context() as patch:
        full_disk(patch, 2)
        with pytest.raises(SpaceError, match=r"last-00000006\.ckpt: cannot be written, the disk is full"):
            place.train(*overrides)
    folder = RunFolder(place.runs()[0])
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        "last-00000004.ckpt",
        "last-00000004.json",
    ]
    assert folder.read_identity()["status"] == "failed"
    assert "disk is full" in folder.read_identity()["reason"]
    same_end(place.resume(folder).folder, place.train(*overrides).folder)
    full_disk(monkeypatch, 2)
    capsys.readouterr()
    assert main(place.overrides(*overrides, "seed=5")) == 4
    assert "the disk is full" in capsys.readouterr().err


def test_torch_passes_the_operating_systems_error_on() -> None:
    """What the test above pretends is what torch does."""
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "wb") as file:
        torch.save({"weight": torch.zeros(1_000_000)}, file)
    assert caught.value.errno == errno.ENOSPC


def test_how_many_are_kept(place: Place) -> None:
    folder = place.train("train.horizon=10steps", "checkpoint.every_steps=2", "checkpoint.keep_last=3").folder
    assert [path.name for path in checkpoints(folder.checkpoints, LAST)] == [
        "last-00000010.ckpt",
        "last-00000008.ckpt",
        "last-00000006.ckpt",
    ]
    manifest = json.loads((folder.checkpoints / "last-00000008.json").read_text())
    assert (manifest["step"], manifest["role"], manifest["file"]) == (8, "last", "last-00000008.ckpt")
    assert manifest["bytes"] == (folder.checkpoints / "last-00000008.ckpt").stat().st_size


def test_checkpoints_by_the_minute(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on by 7 s each time it is read: at the start, after each step and after a save."""
    clock = itertools.count(step=7.0)
    monkeypatch.setattr(files, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    written: list[int] = []
    monkeypatch.setattr(
        files, "write_checkpoint", lambda path, content, **facts: written.append(facts["step"])
    )
    place.train(
        "train.horizon=40steps",
        "checkpoint.every_minutes=1",
        "train.log_every_steps=1",
        "checkpoint.best=null",
    )
    assert written == [9, 18, 27, 36, 40]


def test_the_best_that_a_resumed_run_needs_is_kept(place: Place) -> None:
    """A better one may come between two saves; a kill then must not lose the best of the older save."""
    overrides = (
        "train.horizon=8steps",
        "train.eval_every_steps=1",
        "checkpoint.every_steps=3",
        "checkpoint.keep_last=9",
    )
    folder = place.train(*overrides).folder
    before = exact(folder)
    seen: list[set[str]] = []
    original = files.Checkpoints._prune_best

    def looking(self: files.Checkpoints) -> None:
        original(self)
        seen.append({path.stem for path in checkpoints(folder.checkpoints, BEST)})

    for step in (6, 8):
        for path in folder.checkpoints.glob(f"last-0000000{step}.*"):
            path.unlink()
    (folder.checkpoints / "best-00000003.ckpt").write_bytes(b"")
    (folder.checkpoints / "best-00000003.json").write_text("{}")
    folder.set_status("failed", "killed")
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(files.Checkpoints, "_prune_best", looking)
        place.resume(folder)
    assert seen[0] == {"best-00000003"}, "the one of step 8 is of a future that will come again"
    assert seen[1] == {"best-00000003", "best-00000004"}
    assert seen[-1] == {"best-00000003", "best-00000006", "best-00000008"}
    assert exact(folder) == before


@pytest.mark.parametrize("lost", [False, True])
def test_falling_back_leaves_a_best(lost: bool, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the checkpoint that is fallen back on; where it is lost, the one there is."""
    folder = place.train(
        *("train.horizon=8steps", "train.eval_every_steps=2", "checkpoint.every_steps=3"),
        "checkpoint.keep_last=2",
    ).folder
    bests = checkpoints(folder.checkpoints, BEST)
    assert [files.step_of(path) for path in bests] == [8, 6]
    if lost:
        bests[1].unlink()
        bests[1].with_suffix(".json").unlink()
    flip(checkpoints(folder.checkpoints, LAST)[0])
    folder.set_status("failed", "killed")
    signal_at(monkeypatch, 7)
    assert place.resume(folder).step == 7
    assert [files.step_of(path) for path in checkpoints(folder.checkpoints, BEST)] == [8 if lost else 6]


def test_by_default_there_is_one_to_fall_back_on(place: Place) -> None:
    folder = place.train("train.horizon=8steps", "checkpoint.every_steps=3").folder
    assert [files.step_of(path) for path in checkpoints(folder.checkpoints, LAST)] == [8, 6]


# ---- starting from weights


def test_init_from_takes_the_best_weights_into_a_new_run(place: Place) -> None:
    source = place.train(*WORSENING).folder
    _, *values = (line["val/loss"] for line in lines(source, "val"))
    assert min(values) < values[-1]
    newest = checkpoints(source.checkpoints, LAST)[0]
    for weights, value in ((source.path, min(values)), (newest, values[-1])):
        started = place.train("train.horizon=1steps", f"init_from={weights}", "seed=7").folder
        first = lines(started, "val")[0]
        assert (first["step"], first["val/loss"]) == (0, pytest.approx(value, rel=1e-6))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden_size=16", r"embedding\.weight is \(257, 32\), the model's \(257, 16\)"),
        ("model.num_layers=3", r"does not fit the model: missing blocks\.2\."),
        ("model.num_layers=1", r"does not fit the model: unknown blocks\.1\."),
    ],
)
def test_weights_that_do_not_fit(override: str, message: str, place: Place) -> None:
    source = place.train("train.horizon=1steps").folder
    with pytest.raises(CheckpointError, match=message):
        place.train("train.horizon=1steps", f"init_from={source.path}", override)
    assert len(place.runs()) == 1
