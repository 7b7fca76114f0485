"""Promise 7, and the updates one may choose to leave out: what is wrong never reaches the weights."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from torch import nn
from training_helpers import Place, last, lines, same_end, signal_at

from lmx.config import ConfigError, NonFiniteError
from lmx.config.compose import compose
from lmx.runs import RunFolder
from lmx.training import spikes as spikes_file
from lmx.training.module import LanguageModule
from lmx.training.nonfinite import DeviceGuard, first_non_finite
from lmx.training.spikes import ENOUGH, HISTORY, Spikes

STEPS = ("train.horizon=20steps", "train.eval_at_start=false", "checkpoint.every_steps=2")


def poison(monkeypatch: pytest.MonkeyPatch, step: int, where: str) -> dict[str, Any]:
    """Spoil one update: the output of a layer, a gradient, or the loss alone."""
    seen: dict[str, Any] = {}
    accumulate = LanguageModule._accumulate

    def spoil(module: LanguageModule, batch: dict[str, Any]) -> Any:
        if module.step != step - 1:
            return accumulate(module, batch)
        seen.update(module=module, rows=batch["index"].tolist())
        seen["weights"] = {name: value.clone() for name, value in module.state_dict().items()}
        if where == "layer":
            layer = module.model.blocks[1].feed_forward

            def infinite(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
                return output * math.inf

            layer.register_forward_hook(infinite)
        parts = accumulate(module, batch)
        if where == "gradient":
            for name, parameter in module.model.named_parameters():
                if name.startswith(("embedding", "blocks.0", "blocks.1.feed_forward.down")):
                    assert parameter.grad is not None
                    parameter.grad.view(-1)[0] = math.nan
        if where == "loss":
            parts[0].nats.fill_(math.inf)
        return parts

    monkeypatch.setattr(LanguageModule, "_accumulate", spoil)
    return seen


CULPRITS = {
    "layer": r"the output of blocks\.1\.feed_forward",
    "gradient": r"the gradient of blocks\.1\.feed_forward\.down\.weight",
    "loss": r"the loss of finite hidden states \(the head's logits\)",
}


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("where", CULPRITS)
def test_it_stops_and_says_where_it_began(
    where: str, on_device: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the device keeps the update back, and the host hears of it at the next record."""
    if on_device:
        as_on_a_gpu(monkeypatch)
    seen = poison(monkeypatch, 8, where)
    with pytest.raises(NonFiniteError, match=rf"^step 8: {CULPRITS[where]} is not finite \(loss") as caught:
        place.train(*STEPS, "train.log_every_steps=5")
    assert f"windows {', '.join(map(str, seen['rows']))})" in str(caught.value)
    if not (on_device and where == "loss"):  # a gradient that is sound is applied before the loss is seen
        state = seen["module"].state_dict()
        assert all(value.equal(seen["weights"][name]) for name, value in state.items())
    folder = RunFolder(place.runs()[0])
    assert folder.read_identity()["status"] == "failed"
    assert last(folder)["lmx"]["step"] == 6, "the last good checkpoint"
    assert [line["step"] for line in lines(folder)] == [5]


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way that a CUDA device takes; fused optimizers keep their word on the CPU too."""

    class OnGpu(torch.Tensor):
        is_cuda = True  # type: ignore[assignment]

    norm = torch.linalg.vector_norm

    def vector_norm(*arguments: Any, **options: Any) -> Any:
        return norm(*arguments, **options).as_subclass(OnGpu)

    monkeypatch.setattr(torch.linalg, "vector_norm", vector_norm)


def test_the_way_of_a_gpu_ends_as_that_of_a_cpu(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipping by a factor on the device rounds it to fp32, which is all that differs."""
    overrides = ("train.horizon=8steps", "train.clip_grad_norm=null")
    usual = place.train(*overrides).folder
    clipped = place.train("train.horizon=8steps", "train.clip_grad_norm=0.2").folder
    kept_back: list[float] = []
    keep_back = DeviceGuard.keep_back

    def counting(guard: DeviceGuard, norm: torch.Tensor) -> None:
        kept_back.append(float(norm))
        keep_back(guard, norm)

    monkeypatch.setattr(DeviceGuard, "keep_back", counting)
    as_on_a_gpu(monkeypatch)
    same_end(usual, place.train(*overrides).folder)
    assert len(kept_back) == 8
    other = place.train("train.horizon=8steps", "train.clip_grad_norm=0.2").folder
    for name, value in last(clipped)["state_dict"].items():
        torch.testing.assert_close(last(other)["state_dict"][name], value, rtol=1e-5, atol=1e-7)


def test_the_guard_keeps_weights_and_moments_back_for_good() -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    guard = DeviceGuard(optimizer)
    assert guard.possible
    assert not DeviceGuard(torch.optim.AdamW([weight], foreach=True)).possible

    def step(gradient: float, norm: float) -> dict[str, Any]:
        weight.grad = torch.full((4,), gradient)
        guard.keep_back(torch.tensor(norm))
        optimizer.step()
        return {"weight": weight.detach().clone()} | {
            name: value.clone() for name, value in optimizer.state[weight].items()
        }

    first = step(1.0, 2.0)
    assert not first["weight"].equal(torch.ones(4))
    for gradient, norm in ((math.nan, math.nan), (math.inf, math.inf), (1.0, 2.0)):
        after = step(gradient, norm)
        assert all(value.equal(after[name]) for name, value in first.items())


def test_the_first_module_in_the_order_of_computation_is_named() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    rows = torch.ones(1, 2)
    assert first_non_finite(net, lambda: net(rows)) is None
    net[1][0].weight.data[0, 0] = math.nan
    net[2].weight.data[0, 0] = math.nan
    assert first_non_finite(net, lambda: net(rows)) == "1.0"
    assert not net[0]._forward_hooks


# ---- spikes

LONG = ("train.horizon=90steps", "train.spike_sigmas=6", "train.eval_at_start=false", "schedule=constant")


def test_a_spike_is_beyond_so_many_deviations_of_the_last_updates() -> None:
    spikes = Spikes(6.0)
    history = [2.0 + 0.1 * (number % 3) for number in range(HISTORY + 30)]
    assert not any(spikes.is_spike(value, value) for value in history[:-1])
    recent = history[-HISTORY - 1 : -1]
    limit = statistics.fmean(recent) + 6 * statistics.pstdev(recent)
    copy = Spikes(6.0)
    copy.load_state_dict(spikes.state_dict())
    assert not spikes.is_spike(limit - 1e-9, 2.0)
    assert copy.is_spike(2.0, limit + 1e-9)
    assert copy.state_dict()["norms"][-1] == limit + 1e-9, "it counts among the last updates too"
    assert not any(Spikes(0.1).is_spike(10.0**number, 1.0) for number in range(3)), "too few to compare with"
    fresh = Spikes(0.1)
    assert sum(fresh.is_spike(float(number), 1.0) for number in range(ENOUGH + 1)) == 1


def with_spike(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Make the gradient of one update a thousand times as large."""
    accumulate = LanguageModule._accumulate

    def larger(module: LanguageModule, batch: Any) -> Any:
        parts = accumulate(module, batch)
        if module.step == at - 1:
            for parameter in module.model.parameters():
                assert parameter.grad is not None
                parameter.grad.mul_(1000)
        return parts

    monkeypatch.setattr(LanguageModule, "_accumulate", larger)


def test_a_spike_is_left_out_and_counted_also_over_a_resume(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spikes_file, "ENOUGH", 8)
    overrides = (*LONG, "train.horizon=24steps", "train.log_every_steps=8")
    assert sum(line["train/skipped"] for line in lines(place.train(*overrides).folder, "train")) == 0
    with_spike(monkeypatch, 14)
    whole = place.train(*overrides).folder
    assert [line["train/skipped"] for line in lines(whole, "train")] == [0, 1, 0]
    assert [line["step"] for line in lines(whole, "train")] == [8, 16, 24]
    steps = {int(state["step"]) for state in last(whole)["optimizer_states"][0]["state"].values()}
    assert steps == {23}, "the optimizer never saw it"
    with monkeypatch.context() as patch:
        signal_at(patch, 12)
        stopped = place.train(*overrides).folder
    assert len(last(stopped)["lmx"]["spikes"]["losses"]) == 12
    same_end(whole, place.resume(stopped).folder)
    off = place.train(*overrides[:1], *overrides[4:], "schedule=constant", "train.eval_at_start=false").folder
    assert "train/skipped" not in lines(off, "train")[0]
    with_it, without = lines(whole, "train"), lines(off, "train")
    assert with_it[1]["train/loss"] != without[1]["train/loss"]
    assert with_it[0]["train/loss"] == without[0]["train/loss"]


def test_spikes_are_refused_where_fp16_leaves_updates_out_itself(place: Place) -> None:
    from lmx.training.fit import check_precision

    overrides = place.overrides("train.spike_sigmas=6")
    check_precision(compose(overrides), "bf16")
    with pytest.raises(ConfigError, match=r"^train\.spike_sigmas: got 6\.0 with .*fp16.*, allowed: null"):
        check_precision(compose(overrides), "fp16")
    with pytest.raises(ConfigError, match=r"^train\.spike_sigmas: got 0\.0, allowed: > 0"):
        compose(place.overrides("train.spike_sigmas=0"))
