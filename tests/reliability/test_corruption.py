"""Promise 6: whatever happens to its files, a run goes on from its newest good checkpoint or says why not."""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tally import Tally
from training_helpers import Place, equal, last, same_end

from lmx.runs import RunFolder
from lmx.train import main
from lmx.training.checkpoints import (
    LAST,
    checkpoints,
    newest_good,
    read_checkpoint,
    step_of,
    write_checkpoint,
)

SAVING = ("train.horizon=6steps", "checkpoint.every_steps=2", "checkpoint.keep_last=3")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> RunFolder:
    """A run with three checkpoints, not completed."""
    folder = Place(tmp_path_factory.mktemp("run"), cache).train(*SAVING).folder
    folder.set_status("failed", "killed")
    return folder


@pytest.fixture
def copy(run: RunFolder, tmp_path: Path) -> RunFolder:
    """One that may be damaged."""
    return RunFolder(shutil.copytree(run.path, tmp_path / "copy"))


def bits(generator: random.Random, data: bytes, count: int) -> Iterator[bytes]:
    """`data` with one random bit flipped, `count` times."""
    for _ in range(count):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        yield bytes(damaged)


def cuts(data: bytes, step: int = 1024) -> Iterator[bytes]:
    """`data` cut off at every kilobyte."""
    for size in range(0, len(data), step):
        yield data[:size]


def survives(folder: Path, whole: dict[int, object]) -> bool:
    """Whether the newest good checkpoint is found, just as it was saved, and what is passed over named."""
    said: list[str] = []
    found = newest_good(folder, LAST, said.append)
    if found is None:
        return False
    path, checkpoint = found
    newer = [step for step in whole if step > step_of(path)]
    named = all(any(f"{step:08d}" in line for line in said) for step in newer)
    return named and equal(checkpoint, whole[step_of(path)]) and all(len(s.splitlines()) == 1 for s in said)


def damage(
    copy: RunFolder, tally: Tally, how: str, ending: str, contents: Callable[[bytes], Iterator[bytes]]
) -> None:
    """Replace a file of the newest checkpoint by each of the contents, and count what survives."""
    paths = checkpoints(copy.checkpoints, LAST)
    whole: dict[int, object] = {step_of(path): read_checkpoint(path) for path in paths}
    victim = paths[0].with_suffix(ending)
    before = victim.read_bytes()
    for content in contents(before):
        victim.write_bytes(content)
        good = survives(copy.checkpoints, whole)
        tally.count("damaged checkpoint", f"{how}, {ending}", 1, int(good))
        assert good, content[:100]
    victim.write_bytes(before)


def test_cut_off_at_every_kilobyte(copy: RunFolder, tally: Tally) -> None:
    damage(copy, tally, "cut off", ".ckpt", lambda data: cuts(data, 16 * 1024))
    damage(copy, tally, "cut off", ".json", lambda data: cuts(data, 16))


def test_random_bits(copy: RunFolder, tally: Tally) -> None:
    generator = random.Random(0)
    damage(copy, tally, "a bit flipped", ".ckpt", lambda data: bits(generator, data, 20))
    damage(copy, tally, "a bit flipped", ".json", lambda data: bits(generator, data, 100))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_cut_off_and_flipped_many_times(copy: RunFolder, tally: Tally) -> None:
    generator = random.Random(1)
    damage(copy, tally, "cut off", ".ckpt", cuts)
    damage(copy, tally, "cut off", ".json", lambda data: cuts(data, 1))
    for ending in (".ckpt", ".json"):
        damage(copy, tally, "a bit flipped", ending, lambda data: bits(generator, data, 1000))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"7", b"\xff\xfe", b"{}", b'{"bytes": true}'])
def test_a_manifest_of_something_else(content: bytes, copy: RunFolder) -> None:
    (copy.checkpoints / "last-00000006.json").write_bytes(content)
    found = newest_good(copy.checkpoints, LAST, lambda text: None)
    assert found is not None
    assert step_of(found[0]) == 4


def test_a_renamed_checkpoint_is_not_taken_for_a_later_one(copy: RunFolder) -> None:
    """Its name says where in the order of batches the run goes on."""
    for ending in (".ckpt", ".json"):
        shutil.copy(copy.checkpoints / f"last-00000004{ending}", copy.checkpoints / f"last-00000009{ending}")
    said: list[str] = []
    found = newest_good(copy.checkpoints, LAST, said.append)
    assert found is not None
    assert step_of(found[0]) == 6
    assert said == [f"{copy.checkpoints}/last-00000009.ckpt: renamed, it is of step 4; trying the one before"]


def test_a_copy_of_the_users_own_is_left_alone(copy: RunFolder, place: Place) -> None:
    own = [copy.checkpoints / f"last-keep-me{ending}" for ending in (".ckpt", ".json")]
    for path in own:
        shutil.copy(copy.checkpoints / f"last-00000004{path.suffix}", path)
    assert place.resume(copy, "checkpoint.keep_last=1").step == 6
    assert all(path.exists() for path in own)


FILES = ("config.yaml", "run.json", "metrics.jsonl", "samples/samples.jsonl", "windows/last.npz")
DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda data: None,
    "emptied": lambda data: b"",
    "halved": lambda data: data[: len(data) // 2],
    "overwritten": lambda data: b"\xff\x00\xfe" * 50,
}


QUICK = {("overwritten", "config.yaml"), ("removed", "run.json"), ("halved", "metrics.jsonl")}


@pytest.mark.parametrize(
    ("how", "name"),
    [
        pytest.param(how, name, marks=() if (how, name) in QUICK else pytest.mark.slow)
        for how in DAMAGE
        for name in FILES
    ],
)
def test_other_files_of_a_run(
    how: str, name: str, copy: RunFolder, tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on, or says in one line what is wrong; the weights are those of the run left alone."""
    path = copy.path / name
    weights = last(copy)["state_dict"]
    content = DAMAGE[how](path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for ending in (".ckpt", ".json"):
        (copy.checkpoints / f"last-00000006{ending}").unlink()
    capsys.readouterr()
    status = main([f"resume={copy.path}"])
    errors = capsys.readouterr().err
    if status == 0:
        good = equal(last(copy)["state_dict"], weights)
    else:
        line = errors.splitlines()[-1]
        good = status == 2 and line.startswith("lmx: ") and str(copy.path) in line
    tally.count("damaged run folder", how, 1, int(good and "Traceback" not in errors))
    assert good, errors
    assert "Traceback" not in errors


# ---- a full disk


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, where one may be mounted."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("a file system of a given size can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real one: each save meets another amount of room, and each leaves a run that goes on."""
    steps = ("train.horizon=12steps", "checkpoint.every_steps=3", "checkpoint.best=null")
    monkeypatch.setattr("lmx.runs.identity.git_state", lambda: None)  # a diff may be large
    whole = place.train(*steps)
    with small_disk(tmp_path / "disk", "8m") as disk:
        full = Place(disk / "outputs", place.cache)
        arguments = full.overrides(*steps)
        ballast = disk / "ballast"
        for room in (150_000, 420_000, 600_000, 780_000):
            shutil.rmtree(full.outputs, ignore_errors=True)
            capsys.readouterr()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("lmx.training.fit.check_space", fill(ballast, disk, room))
                status = main(arguments)
            errors = capsys.readouterr().err
            assert status == 4, (room, errors)
            assert "the disk is full" in errors.splitlines()[-1]
            assert "Traceback" not in errors
            ballast.unlink()
            resumed = full.resume(RunFolder(full.runs()[0]))
            assert resumed.exit_status == 0
            same_end(whole.folder, resumed.folder)


def fill(ballast: Path, disk: Path, room: int) -> Callable[..., str]:
    """Leave `room` bytes on the disk once the run has looked at it."""

    def check(*arguments: object) -> str:
        ballast.write_bytes(b"\0" * (shutil.disk_usage(disk).free - room))
        return "enough, as far as it knew"

    return check


def test_a_limit_on_the_size_of_files(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lmx.runs.identity.git_state", lambda: None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    place.train("train.horizon=1steps")  # the corpus is prepared
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        status = main(place.overrides("train.horizon=4steps", "checkpoint.best=null", "seed=3"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 4
    line = capsys.readouterr().err.splitlines()[-1]
    assert "last-00000004.ckpt: cannot be written" in line
    assert "File too large" in line


def test_a_limit_that_tensorboard_meets_in_a_thread_of_its_own(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lmx.runs.identity.git_state", lambda: None)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest's own prints nothing
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    arguments = place.overrides("logger=tensorboard", "train.horizon=40steps", "train.log_every_steps=1")
    place.train("train.horizon=1steps")  # the corpus is prepared
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, before[1]))
    try:
        status = main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (written,) = place.outputs.glob("*/*/tensorboard/events*")
    assert written.stat().st_size == 16_000
    assert status == 4
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1] == "lmx: cannot be written, the disk is full (File too large)"
    assert "Traceback" not in errors
    assert threading.excepthook is threading.__excepthook__


def test_checkpoints_that_will_not_fit_are_refused_before_training(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = ("checkpoint.keep_last=5", "checkpoint.every_steps=2")
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    assert main(place.overrides("train.horizon=4steps", *keep)) == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert "has 1.0 MiB free, and the checkpoints take up to" in error
    assert "allowed: another paths.outputs, a smaller checkpoint.keep_last=5, checkpoint.best=null" in error
    assert place.runs() == []


def test_the_room_that_is_asked_for_is_what_checkpoints_take(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest the folder ever was lies just below what was said."""
    from lmx.training import checkpoints as files
    from lmx.training.space import check_space

    seen: list[int] = []

    def watching(path: Path, *arguments: object, **facts: object) -> None:
        write_checkpoint(path, *arguments, **facts)  # type: ignore[arg-type]
        seen.append(sum(item.stat().st_size for item in path.parent.iterdir()))

    monkeypatch.setattr(files, "write_checkpoint", watching)
    size = ("model.hidden_size=128", "model.intermediate_size=256", "train.eval_every_steps=1")
    folder = place.train(*size, *SAVING).folder
    from lmx.training.resume import load_experiment

    said = check_space(load_experiment(folder), place.outputs)
    needed = float(said.split("up to ")[1].split(" MiB")[0].replace(",", ""))
    assert 0.6 * needed < max(seen) / 2**20 < needed
    sizes = json.loads((folder.checkpoints / "last-00000006.json").read_text())["bytes"]
    assert sizes < 2**20 * needed / 4
