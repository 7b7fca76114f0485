"""Promise 3: whatever the split into micro-batches, the gradient is that of the whole batch, by tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training_helpers import PACKINGS, Place, exact, last, lines, signal_at

from lmx.config.compose import compose
from lmx.data import TokenDataModule
from lmx.native import left_out
from lmx.objective import FusedObjective
from lmx.report.facts import facts
from lmx.runs import read_run
from lmx.training.fit import Job, build
from lmx.training.module import LanguageModule

# an update of rate 1 and nothing else: the weights before, less those after, are the gradient
PLAIN = ("optimizer=sgd", "optimizer.lr=1", "optimizer.update.momentum=0", "optimizer.update.nesterov=false")
PLAIN = (*PLAIN, "schedule=constant", "train.eval_at_start=false", "train.log_every_steps=1")


def job_of(place: Place, *overrides: str) -> Job:
    return build(compose(place.overrides(*overrides)), lambda text: None, fresh=True)


def batches(job: Job, steps: int) -> list[dict[str, Any]]:
    return list(TokenDataModule(job.experiment, job.corpus, total_steps=steps).train_dataloader())


def reference_loss(model: torch.nn.Module, batch: dict[str, Any]) -> Tensor:
    """Mean cross-entropy over the valid targets of the whole batch, the plain way."""
    hidden = model(batch["tokens"], positions=batch.get("positions"), documents=batch.get("documents"))
    return F.cross_entropy(model.logits(hidden).flatten(0, 1), batch["targets"].flatten())  # type: ignore[operator]


def gradient_of(place: Place, *overrides: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Gradient of the first update by the weights it changed, and its record."""
    job = job_of(place, *overrides)
    before = {f"model.{name}": value.clone() for name, value in job.module.model.state_dict().items()}
    folder = place.train(*overrides, "train.horizon=1steps").folder
    after = last(folder)["state_dict"]
    return {name: before[name] - after[name] for name in before}, lines(folder, "train")[0]


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_gradient_is_that_of_the_plain_loss(packing: str, place: Place) -> None:
    overrides = (*PLAIN, *PACKINGS[packing], "train.clip_grad_norm=null")
    job = job_of(place, *overrides, "train.horizon=1steps")
    batch = batches(job, 1)[0]
    valid = (batch["targets"] != -100).sum(1)
    if packing != "stream":
        assert len(set(valid.tolist())) > 1, "rows of unequal numbers of tokens"
    model = copy.deepcopy(job.module.model).double()
    loss = reference_loss(model, batch)
    loss.backward()
    expected = {f"model.{name}": parameter.grad for name, parameter in model.named_parameters()}
    norms = [float(value.norm()) for value in expected.values() if value is not None]
    total = float(torch.nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None))
    for size in (8, 4, 3, 1) if packing != "stream" else (8, 2):
        if 8 % size:
            continue
        found, record = gradient_of(place, *overrides, f"hardware.micro_batch_size={size}")
        for name, value in expected.items():
            assert value is not None
            torch.testing.assert_close(found[name].double(), value, rtol=2e-5, atol=1e-6)
        assert record["train/loss"] == pytest.approx(loss.item(), rel=1e-6)
        assert record["train/grad_norm"] == pytest.approx(total, rel=1e-5)
        assert record["tokens"] == int(valid.sum())
    assert np.sqrt(np.square(norms).sum()) == pytest.approx(total, rel=1e-9)


def test_an_epoch_with_a_partial_batch_does_not_depend_on_the_split(place: Place) -> None:
    overrides = (*PACKINGS["sentences"], "train.horizon=1epochs", "train.log_every_steps=1")
    whole = place.train(*overrides).folder
    steps = lines(whole, "train")
    parts = place.train(*overrides, "hardware.micro_batch_size=1").folder
    for left, right in zip(steps, lines(parts, "train"), strict=True):
        assert left["tokens"] == right["tokens"]
        for name in ("train/loss", "train/entropy", "train/grad_norm"):
            assert left[name] == pytest.approx(right[name], rel=1e-5)
    job = job_of(place, *overrides)
    partial = [batch for batch in batches(job, len(steps)) if (batch["index"] < 0).any()]
    assert len(partial) == 1, "the last batch of the epoch is filled with empty rows"


def test_clipping_limits_the_update_and_not_the_record(place: Place) -> None:
    free, record = gradient_of(place, *PLAIN, "train.clip_grad_norm=null")
    clipped, clipped_record = gradient_of(place, *PLAIN, "train.clip_grad_norm=0.25")
    norm = record["train/grad_norm"]
    assert norm > 0.5
    assert clipped_record["train/grad_norm"] == norm
    assert float(torch.nn.utils.get_total_norm(clipped.values())) == pytest.approx(0.25, rel=1e-4)
    for name, value in free.items():
        torch.testing.assert_close(clipped[name], value * (0.25 / norm), rtol=1e-4, atol=1e-6)
    loose, _ = gradient_of(place, *PLAIN, "train.clip_grad_norm=1000")
    assert all(value.equal(free[name]) for name, value in loose.items())


def test_groups_make_up_the_total(place: Place) -> None:
    for line in lines(place.train("train.horizon=3steps", "train.log_every_steps=1").folder, "train"):
        groups = [value for name, value in line.items() if name.startswith("train/grad_norm/")]
        assert len(groups) == 4
        assert np.sqrt(np.square(groups).sum()) == pytest.approx(line["train/grad_norm"], rel=1e-9)


def test_a_record_is_the_token_weighted_mean_of_its_updates(place: Place) -> None:
    overrides = (*PACKINGS["sentences"], "train.horizon=1epochs", "train.eval_at_start=false")
    each = lines(place.train(*overrides, "train.log_every_steps=1").folder, "train")
    (whole,) = lines(place.train(*overrides, "train.log_every_steps=1000").folder, "train")
    tokens = np.diff([0, *(line["tokens"] for line in each)])
    assert len(set(tokens)) > 1
    for name in ("train/loss", "train/entropy", "train/accuracy", "train/confidence"):
        values = [line[name] for line in each]
        assert whole[name] == pytest.approx(np.average(values, weights=tokens), rel=1e-12)
        assert whole[name] != pytest.approx(np.mean(values), rel=1e-12)
    for name in ("train/grad_norm", "train/grad_norm/embedding", "train/pi", "train/log_pi"):
        assert whole[name] == pytest.approx(np.mean([line[name] for line in each]), rel=1e-12)
    assert whole["train/lr"] == each[-1]["train/lr"]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Collect what is handed to the compiler, which itself is left out, for it takes minutes.

    So is what is in C++, of which the compiler sees nothing.
    """
    found: list[Any] = []

    def collect(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=collect))
    with left_out():
        yield found


def test_compiled_and_uncompiled_checkpoints_interchange(
    place: Place, monkeypatch: pytest.MonkeyPatch, graphs: list[Any]
) -> None:
    # the fused softmax takes another exponential, which is compared in the objective's own tests
    monkeypatch.setattr(FusedObjective, "compile", lambda objective: None)
    plain = place.train("train.horizon=6steps").folder
    assert not graphs
    with monkeypatch.context() as patch:
        signal_at(patch, 3)
        folder = place.train("train.horizon=6steps", "hardware.compile=on").folder
    assert len(graphs) == 1
    assert last(folder)["state_dict"].keys() == last(plain)["state_dict"].keys()
    resumed = place.resume(folder, "hardware.compile=off").folder
    assert exact(resumed) == exact(plain)
    assert len(graphs) == 1


def test_nothing_is_compiled_twice(place: Place, graphs: list[Any]) -> None:
    """Not for the last batch of an epoch, and not for evaluations."""
    short = ("data.drop_last=false", "train.horizon=15steps", "train.eval_every_steps=5")
    folder = place.train(*short, "hardware.compile=on").folder
    assert lines(folder)[-1]["tokens"] < 15 * 8 * 32
    assert len(graphs) == 2  # the decoder, and the softmax of a tile


def test_compilation_is_in_no_time_of_training(
    place: Place, monkeypatch: pytest.MonkeyPatch, graphs: list[Any]
) -> None:
    """It takes a gradient of its own, which leaves neither weights nor random states as a trace."""
    monkeypatch.setattr(FusedObjective, "compile", lambda objective: None)
    short = ("train.horizon=6steps", "train.log_every_steps=2", "model.residual_dropout=0.1")
    plain = place.train(*short).folder
    clocks: list[tuple[bool, int]] = []
    take = LanguageModule._pass

    def watched(module: LanguageModule, *given: Any) -> Any:
        clocks.append((module.stopwatch._since is not None, len(graphs)))
        return take(module, *given)

    monkeypatch.setattr(LanguageModule, "_pass", watched)
    folder = place.train(*short, "hardware.compile=on").folder
    assert clocks == [(False, 0), *[(True, 1)] * 6]
    assert exact(folder) == exact(plain)
    taken = ["speed/compile_seconds" in line for line in lines(folder) if line["kind"] == "train"]
    assert taken == [True, False, False]
    assert (facts(read_run(folder.path)).compile_seconds or 0) > 0
    assert facts(read_run(plain.path)).compile_seconds is None


def test_tied_weights_stay_tied(place: Place) -> None:
    folder = place.train("train.horizon=2steps").folder
    job = job_of(place, f"init_from={folder.path}")
    model = job.module.model
    assert model.head_weight is model.embedding.weight
    assert "model.head.weight" not in last(folder)["state_dict"]
    assert model.embedding.weight.equal(last(folder)["state_dict"]["model.embedding.weight"])
    with torch.no_grad():
        model.embedding.weight[0, 0] = 7.0
    assert model.head_weight[0, 0] == 7.0


def test_ranks_drop_out_differently(place: Place) -> None:
    """Each rank but the first draws from a seed of its own once training starts."""
    module = job_of(place).module
    drawn = []
    for rank in range(2):
        module = job_of(place).module
        module._trainer = _Rank(rank)  # type: ignore[assignment]
        LanguageModule.on_train_start(module)
        drawn.append(torch.rand(4))
    assert not drawn[0].equal(drawn[1])


class _Rank:
    """As much of a Trainer as the start of training looks at."""

    def __init__(self, rank: int) -> None:
        self.global_rank = rank
        self.fit_loop = self.epoch_loop = self.manual_optimization = self
        self.optim_step_progress = self.total = self
        self.ready = self.completed = 0
