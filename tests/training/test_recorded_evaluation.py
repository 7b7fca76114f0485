"""Evaluations as recorded experiments made them: a few windows, means of batches, the worst called best."""

from __future__ import annotations

import math

import pytest
from training_helpers import Place, checkpoints, last, lines

from lmx.data import prepare
from lmx.runs import read_windows
from lmx.training.checkpoints import BEST
from lmx.training.evaluate import evaluate_run
from lmx.training.resume import load_experiment

SHORT = ("train.horizon=4steps", "train.eval_every_steps=2", "callbacks.samples=null")


def test_means_of_batches_weigh_the_last_one_more(place: Place) -> None:
    """Seven windows in batches of five and two; of sentences, whose rows have unequal tokens."""
    overrides = (*SHORT, "data.packing=sentences", "data.sequence_length=64", "train.eval_batch_size=5")
    whole, means = place.train(*overrides).folder, place.train(*overrides, "train.eval_mean=batches").folder
    windows = read_windows(means.windows / "last.npz")
    assert windows is not None
    parts = [slice(start, start + 5) for start in range(0, len(windows.loss), 5)]
    assert len(windows.loss) % 5
    expected = [windows.loss[part].sum() / windows.tokens[part].sum() for part in parts]
    line, honest = lines(means, "val")[-1], lines(whole, "val")[-1]
    assert line["val/loss"] == pytest.approx(sum(expected) / len(parts), rel=1e-6)
    assert line["val/perplexity"] == pytest.approx(math.exp(line["val/loss"]), rel=1e-9)
    assert line["val/loss"] != pytest.approx(honest["val/loss"], rel=1e-6)
    assert line["val/bits_per_byte"] == pytest.approx(honest["val/bits_per_byte"], rel=1e-9)
    assert line["val/accuracy"] != honest["val/accuracy"]


def test_drawn_windows_are_all_that_is_seen_but_the_door_sees_everything(place: Place) -> None:
    folder = place.train(*SHORT, "train.eval_windows=3").folder
    experiment = load_experiment(folder)
    held = prepare(experiment.data, experiment.tokenizer, experiment.paths.cache, lambda text: None).splits[
        "validation"
    ]
    windows = read_windows(folder.windows / "last.npz")
    assert windows is not None
    assert (windows.tokens > 0).sum() == 3
    line = lines(folder, "val")[-1]
    assert line["val/loss"] == pytest.approx(windows.loss.sum() / windows.tokens.sum(), rel=1e-6)
    share = windows.tokens.sum() / held.targets
    bits = windows.loss.sum() / (share * held.scored_bytes * math.log(2))
    assert line["val/bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    values = evaluate_run(folder.path, "validation", checkpoint=None, batch_size=2, say=lambda text: None)
    whole = place.train(*SHORT).folder
    assert values["validation/loss"] == pytest.approx(lines(whole, "val")[-1]["val/loss"], rel=1e-6)


def test_a_stopped_run_draws_the_same_windows(place: Place) -> None:
    overrides = (*SHORT, "train.eval_windows=3", "schedule=constant")
    whole = place.train(*overrides).folder
    begun = place.train(*overrides, "train.horizon=2steps").folder
    continued = place.resume(begun, "train.horizon=4steps").folder
    one, other = (read_windows(folder.windows / "last.npz") for folder in (whole, continued))
    assert one is not None
    assert other is not None
    assert one.loss.tolist() == other.loss.tolist()


@pytest.mark.parametrize(("mode", "choose"), [("auto", min), ("max", max)])
def test_the_best_by_either_direction(mode: str, choose: object, place: Place) -> None:
    folder = place.train(*SHORT, f"checkpoint.best_mode={mode}").folder
    (path,) = checkpoints(folder.checkpoints, BEST)
    evaluated = [line for line in lines(folder, "val") if line["step"]]
    wanted = choose(evaluated, key=lambda line: line["val/loss"])  # type: ignore[operator]
    assert int(path.stem.rpartition("-")[2]) == wanted["step"]
    assert last(folder)["lmx"]["step"] == 4
