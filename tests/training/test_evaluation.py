"""Promise 4: an evaluation covers the whole split once, and its numbers do not depend on the batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_helpers import PACKINGS, Place, last, lines

from lmx.config import CheckpointError, ConfigError, Experiment
from lmx.config.compose import compose
from lmx.data import prepare
from lmx.data.sampler import EvaluationOrder
from lmx.objective.sums import TokenSums
from lmx.report import final_table, render_run
from lmx.runs import RunFolder, read_run
from lmx.training import record_test, train
from lmx.training.evaluate import evaluate_run
from lmx.training.restore import restore
from lmx.training.resume import load_experiment
from lmx.training.totals import EvaluationTotals

SPLITS = ("data=text", "train.test_at_end=true", "train.horizon=8steps", "train.eval_every_steps=4")


def evaluate(folder: RunFolder, split: str = "validation", batch_size: int | None = None) -> dict[str, float]:
    return evaluate_run(folder.path, split, checkpoint=None, batch_size=batch_size, say=lambda text: None)


@pytest.mark.parametrize("packing", PACKINGS)
def test_any_batch_size_gives_the_plain_figures(
    packing: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[float] = []
    collect = EvaluationTotals.collect

    def counting(totals: EvaluationTotals) -> dict[str, float]:
        values = collect(totals)
        counted.append(values["tokens"])
        return values

    folder = place.train(*PACKINGS[packing], "train.horizon=5steps").folder
    experiment = load_experiment(folder)
    windows = prepare(
        experiment.data, experiment.tokenizer, experiment.paths.cache, lambda text: None
    ).splits["validation"]
    model = restore(folder.path, None, lambda text: None).model.double()
    nats, entropy, correct, tokens = 0.0, 0.0, 0, 0
    with torch.no_grad():
        for number in range(len(windows)):
            row = {
                name: torch.from_numpy(array)[None] for name, array in windows[number].items() if array.ndim
            }
            hidden = model(row["tokens"], positions=row.get("positions"), documents=row.get("documents"))
            targets = row["targets"].flatten()
            logits = model.logits(hidden).flatten(0, 1)[targets != -100]  # (N, V)
            targets = targets[targets != -100]
            nats += float(F.cross_entropy(logits, targets, reduction="sum"))
            entropy += float(torch.distributions.Categorical(logits=logits).entropy().sum())
            correct += int((logits.argmax(-1) == targets).sum())
            tokens += len(targets)
    assert tokens == windows.targets
    expected = {
        "validation/loss": nats / tokens,
        "validation/perplexity": math.exp(nats / tokens),
        "validation/bits_per_byte": nats / math.log(2) / windows.scored_bytes,
        "validation/word_perplexity": math.exp(nats / windows.scored_words),
        "validation/entropy": entropy / tokens,
        "validation/accuracy": correct / tokens,
    }
    monkeypatch.setattr(EvaluationTotals, "collect", counting)
    for size in (1, 7, 64, None):
        found = evaluate(folder, batch_size=size)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-5 if "word" in name else 1e-6), (name, size)
    assert counted == [tokens] * 4
    recorded = lines(folder, "val")[-1]
    assert recorded["val/loss"] == pytest.approx(expected["validation/loss"], rel=1e-6)


def test_any_order_and_bf16_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows shuffled, in batches of each size, in half precision: one figure."""
    folder = place.train(*PACKINGS["sentences"], "train.horizon=5steps", "hardware.precision=bf16").folder
    expected = evaluate(folder)["validation/loss"]
    batches = EvaluationOrder.__iter__

    def shuffled(order: EvaluationOrder) -> Iterator[np.ndarray]:
        rows = np.concatenate(list(batches(order)))
        mixed = np.random.default_rng(order.batch_size).permutation(rows)
        assert not np.array_equal(mixed, rows)
        yield from mixed.reshape(-1, order.batch_size)

    for size in (1, 7, 64):
        assert evaluate(folder, batch_size=size)["validation/loss"] == pytest.approx(expected, rel=1e-6)
        with monkeypatch.context() as patch:
            patch.setattr(EvaluationOrder, "__iter__", shuffled)
            found = evaluate(folder, batch_size=size)["validation/loss"]
        assert found == pytest.approx(expected, rel=1e-6)


def test_the_size_of_evaluation_batches_changes_nothing_in_training(place: Place) -> None:
    overrides = ("train.horizon=4steps", "train.eval_every_steps=1", "model.residual_dropout=0.1")
    left = place.train(*overrides, "train.eval_batch_size=1").folder
    right = place.train(*overrides, "train.eval_batch_size=50").folder
    for one, other in zip(lines(left, "val"), lines(right, "val"), strict=True):
        assert one["val/loss"] == pytest.approx(other["val/loss"], rel=1e-6)
    for name, value in last(left)["state_dict"].items():
        assert value.equal(last(right)["state_dict"][name]), name


def test_totals_are_kept_in_float64() -> None:
    """Of 1e8 in float32, seven additions of 1 would be lost."""
    totals = EvaluationTotals()
    for value in (1e8, *[1.0] * 7):
        number = torch.tensor(value)
        totals.add(TokenSums(*[number] * 8))
    assert totals.collect()["nats"] == 1e8 + 7


def test_evaluating_a_run_says_what_is_not_there(place: Place) -> None:
    folder = place.train("train.horizon=1steps").folder
    with pytest.raises(ConfigError, match=r"^--split: got 'valid', allowed: train, validation"):
        evaluate(folder, split="valid")
    with pytest.raises(ConfigError, match=r"^--batch-size: got 0, allowed: ≥ 1"):
        evaluate(folder, batch_size=0)
    with pytest.raises(CheckpointError, match="no such run folder"):
        evaluate_run(folder.path / "no", "test", checkpoint=None, batch_size=None, say=print)
    assert "train/loss" in evaluate(folder, split="train")


def texts(folder: Path, *splits: str) -> str:
    """Write a text for each split; return where they are, as an override."""
    for words, split in enumerate(splits, start=2):
        draw = np.random.default_rng(words)
        (folder / f"{split}.txt").write_text(" ".join(draw.choice(["ab", "cd", "efg", "h"], 3000 // words)))
    return f"data.files={folder}"


def composed(place: Place, *more: str) -> Experiment:
    kept = [line for line in place.overrides(*more) if not line.startswith(("data.stories", "data.held"))]
    return compose(kept)


def test_the_test_split_is_evaluated_once_at_the_end(place: Place, tmp_path: Path) -> None:
    texts_of = texts(tmp_path, "train", "validation", "test")
    experiment = composed(place, *SPLITS, texts_of, "checkpoint.best_mode=max")  # the last are not the best
    folder = train(experiment, []).folder
    assert "test" not in folder.read_identity(), "not before the run is completed"
    record_test(folder.path)
    test = folder.read_identity()["test"]
    assert test.pop("step") == 4
    assert test == evaluate(folder, "test")
    run = read_run(folder.path)
    line = f"{test['test/bits_per_byte']:.4f} bits/byte, perplexity {test['test/perplexity']:,.2f}"
    assert line in final_table(run)
    assert f"| {test['test/loss']:.4f} | {test['test/perplexity']:,.2f} |" in render_run(run).read_text()


def test_without_a_test_split_it_is_refused(place: Place, tmp_path: Path) -> None:
    experiment = composed(place, *SPLITS, texts(tmp_path, "train", "validation"))
    with pytest.raises(ConfigError, match=r"^train.test_at_end: got true, allowed: false .*no test split"):
        train(experiment, [])


def test_nothing_is_added_where_it_is_not_asked_for(place: Place) -> None:
    folder = place.train("train.horizon=2steps").folder
    record_test(folder.path)
    assert "test" not in folder.read_identity()
