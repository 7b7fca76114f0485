"""Each validation window's loss: exact for any batches, kept for the best and the last evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_helpers import PACKINGS, WORSENING, Place, lines, same_end, signal_at

from lmx.data import prepare
from lmx.runs import WindowRecord, read_windows, write_windows
from lmx.training.checkpoints import BEST, checkpoints, step_of
from lmx.training.restore import restore
from lmx.training.resume import load_experiment
from lmx.training.window_losses import WindowLosses


def record(folder: Path, role: str) -> WindowRecord:
    found = read_windows(folder / "windows" / f"{role}.npz")
    assert found is not None
    return found


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("batch_size", [3, 50])
def test_windows_have_their_plain_losses(packing: str, batch_size: int, place: Place) -> None:
    overrides = (*PACKINGS[packing], "train.horizon=5steps", f"train.eval_batch_size={batch_size}")
    folder = place.train(*overrides).folder
    experiment = load_experiment(folder)
    windows = prepare(
        experiment.data, experiment.tokenizer, experiment.paths.cache, lambda text: None
    ).splits["validation"]
    model = restore(folder.path, None, lambda text: None).model
    found = record(folder.path, "last")
    assert (len(found.loss), found.step) == (len(windows), 5)
    assert found.tokens.tolist() == windows.target_counts(np.arange(len(windows))).tolist()
    with torch.no_grad():
        for number in range(len(windows)):
            row = {
                name: torch.from_numpy(array)[None] for name, array in windows[number].items() if array.ndim
            }
            hidden = model(row["tokens"], positions=row.get("positions"), documents=row.get("documents"))
            logits = model.logits(hidden).flatten(0, 1).double()
            plain = float(F.cross_entropy(logits, row["targets"].flatten(), reduction="sum"))
            assert found.loss[number] == pytest.approx(plain, rel=1e-5)
    recorded = lines(folder, "val")[-1]
    assert found.loss.sum() / found.tokens.sum() == pytest.approx(recorded["val/loss"], rel=1e-6)


def test_best_is_the_evaluation_that_was_kept(place: Place) -> None:
    folder = place.train(*WORSENING).folder
    values = {line["step"]: line["val/loss"] for line in lines(folder, "val") if line["step"]}
    best, last = record(folder.path, "best"), record(folder.path, "last")
    assert last.step == 8
    assert best.step == min(values, key=lambda step: values[step]) != 8
    assert best.step == step_of(checkpoints(folder.checkpoints, BEST)[0])
    for found in (best, last):
        assert found.loss.sum() / found.tokens.sum() == pytest.approx(values[found.step], rel=1e-6)


def test_a_resumed_run_has_the_best_of_its_checkpoint(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed run wrote after its last checkpoint is undone: its evaluation will come again, or not."""
    overrides = ("train.horizon=8steps", "train.eval_every_steps=2")
    whole = place.train(*overrides).folder
    with monkeypatch.context() as patch:
        signal_at(patch, 5)
        stopped = place.train(*overrides).folder
    best = record(stopped.path, "best")
    assert best.step == 4
    for role in ("best", "last"):  # as if a later evaluation had come before the kill
        write_windows(stopped.windows / f"{role}.npz", best.loss + 1, best.tokens, step=6)
    seen = {}
    on_train_start = WindowLosses.on_train_start

    def look(callback: WindowLosses, *arguments: Any) -> None:
        on_train_start(callback, *arguments)
        seen.update({role: read_windows(stopped.windows / f"{role}.npz") for role in ("best", "last")})

    monkeypatch.setattr(WindowLosses, "on_train_start", look)
    resumed = place.resume(stopped).folder
    assert seen["last"] is None
    assert seen["best"] is not None
    assert seen["best"].loss.tolist() == best.loss.tolist()
    same_end(whole, resumed)


def test_no_best_is_kept_where_none_is_asked_for(place: Place) -> None:
    folder = place.train("train.horizon=2steps", "checkpoint.best=null").folder
    assert [path.name for path in folder.windows.iterdir()] == ["last.npz"]


def test_what_is_no_record_reads_as_none(tmp_path: Path) -> None:
    path = write_windows(tmp_path / "w.npz", [1.5, 2.5], [3, 0], 7)
    found = read_windows(path)
    assert found is not None
    assert (found.loss.tolist(), found.tokens.tolist(), found.step) == ([1.5, 2.5], [3, 0], 7)
    whole = path.read_bytes()
    assert read_windows(tmp_path / "missing.npz") is None
    for damaged in (b"", b"no zip", whole[: len(whole) // 2], json.dumps({"loss": []}).encode()):
        path.write_bytes(damaged)
        assert read_windows(path) is None
    np.savez(path, loss=np.zeros(2), tokens=np.zeros(3, dtype=int), step=1)
    assert read_windows(path) is None
    np.savez(path, loss=np.array([{}]), tokens=np.zeros(1), step=1)  # objects would need pickle
    assert read_windows(path) is None
