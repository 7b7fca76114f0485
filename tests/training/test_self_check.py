"""The model's self-test at the start of a run, and what it leaves in `run.json`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import Place

import lmx.native
import lmx.native.kernels
from lmx.config.compose import compose
from lmx.model import Decoder
from lmx.model.to_transformers import save_transformers
from lmx.training.self_check import check_model

SHAPE = ("model.vocab_size=300", "model.context_length=64", "data.sequence_length=64", "tokenizer=byte")


def checked(*overrides: str) -> tuple[dict[str, object], list[str]]:
    experiment = compose([*SHAPE, *overrides])
    said: list[str] = []
    torch.manual_seed(0)
    return check_model(experiment, Decoder(experiment.model), "cpu", said.append), said


def test_a_run_records_it(place: Place) -> None:
    seen = place.train("train.horizon=1steps").folder.read_identity()["self_test"]
    assert (seen["claims_positions"], seen["sees_order"], seen["sees_future"]) == (True, True, False)
    assert seen["dead_parameters"] == []
    assert seen["log_vocab"] == pytest.approx(math.log(257))
    assert seen["initial_loss"] == pytest.approx(seen["log_vocab"], rel=0.05)
    assert 0 < seen["native_error"] < 10
    assert 0 < seen["head_error"] < 2
    assert 0 < seen["seconds"] < 60


@pytest.mark.parametrize("wrong", [0.01, math.nan], ids=["larger", "nan"])
@pytest.mark.parametrize("function", ["head", "head_gradient"])
@pytest.mark.parametrize("half", [False, True])
def test_a_head_in_cpp_that_is_wrong(
    place: Place, monkeypatch: pytest.MonkeyPatch, wrong: float, function: str, half: bool
) -> None:
    call = lmx.native.call

    def broken(name: str, *arguments: Any) -> None:
        call(name, *arguments)
        if name == function and arguments[{"head": 4, "head_gradient": 1}[name]] == half:
            result = arguments[{"head": 9, "head_gradient": 3}[name]]
            if result is not None:
                # in half precision a hundredth is little more than rounding
                result.view(-1)[0] += wrong * (5 if half else 1) * result.abs().max()

    monkeypatch.setattr(lmx.native, "call", broken)
    with pytest.raises(RuntimeError, match=r"the head in C\+\+ is .* times as inexact as plain torch"):
        place.train("train.horizon=1steps")
    assert not place.runs()


def test_on_a_gpu_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmx.native.kernels, "_library", lambda: pytest.fail("nobody needs it there"))
    experiment = compose([*SHAPE])
    seen = check_model(experiment, Decoder(experiment.model), "gpu", lambda text: None)
    assert (seen["native_error"], seen["head_error"]) == (0, 0)


def test_a_loss_far_from_the_logarithm_of_the_vocabulary_is_explained() -> None:
    assert checked()[1] == []
    seen, [line] = checked("model.init=torch_default", "model.hidden_size=128")
    assert line.startswith(f"self-test: the loss before training is {seen['initial_loss']:.2f} nats where ")
    assert "model.init=torch_default and a head tied to the embedding give logits" in line
    [line] = checked("model.init_std=0.5", "model.tie_embeddings=false")[1]
    assert "ln V is 5.70: model.init=scaled, model.init_std=0.5 give logits" in line


def test_a_model_that_is_not_what_it_says_is_not_trained(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmx.model.attention.rotate", lambda x, rotation, layout: x)
    with pytest.raises(RuntimeError, match=r"model\.position=rope, but attention does not see .* a bug in"):
        place.train("train.horizon=1steps")
    assert not place.runs()


def test_weights_from_elsewhere_are_trained_all_the_same(place: Place, tmp_path: Path) -> None:
    experiment = compose([*SHAPE])
    model = Decoder(experiment.model)
    torch.nn.init.zeros_(model.blocks[0].attention.output.weight)
    save_transformers(model, tmp_path / "theirs")
    with pytest.raises(RuntimeError, match="no gradient reaches"):
        check_model(experiment, model, "cpu", lambda text: None)
    experiment.init_from = f"hf:{tmp_path / 'theirs'}"
    said: list[str] = []
    seen = check_model(experiment, model, "cpu", said.append)
    assert "blocks.0.attention.value.weight" in seen["dead_parameters"]
    [line] = said
    assert line.endswith(f"with the weights of {experiment.init_from}")
