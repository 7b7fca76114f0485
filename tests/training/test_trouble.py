"""Promise 7, and the updates one may choose to leave out: what is wrong never reaches the weights."""

from __future__ import annotations

import functools
import math
import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from training_helpers import Place, as_on_a_gpu, last, lines, same_end, signal_at

from lmx.config import ConfigError, NonFiniteError
from lmx.config.compose import compose
from lmx.model import Decoder
from lmx.optim import Lion, Muon
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


# what needs a value of a tensor on the host
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select")
UNFUSED = ("optimizer=muon", "optimizer=lion", "optimizer.sharpness_rho=0.05")


@pytest.mark.parametrize(
    ("where", "on_device", "optimizer"),
    [
        *((where, on_device, "optimizer=adamw") for where in CULPRITS for on_device in (False, True)),
        *(("gradient", True, optimizer) for optimizer in UNFUSED),
    ],
)
def test_it_stops_and_says_where_it_began(
    where: str, on_device: bool, optimizer: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the device keeps the update back, and the host hears of it at the next record."""
    if on_device:
        as_on_a_gpu(monkeypatch)
    seen = poison(monkeypatch, 8, where)
    with pytest.raises(NonFiniteError, match=rf"^step 8: {CULPRITS[where]} is not finite \(loss") as caught:
        place.train(*STEPS, "train.log_every_steps=5", optimizer)
    assert f"windows {', '.join(map(str, seen['rows']))})" in str(caught.value)
    state = seen["module"].state_dict()
    assert all(value.equal(seen["weights"][name]) for name, value in state.items())
    folder = RunFolder(place.runs()[0])
    assert folder.read_identity()["status"] == "failed"
    assert last(folder)["lmx"]["step"] == 6, "the last good checkpoint"
    assert [line["step"] for line in lines(folder)] == [5]


@pytest.mark.parametrize("optimizer", ["optimizer=adamw", *UNFUSED])
def test_the_way_of_a_gpu_ends_as_that_of_a_cpu(
    optimizer: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipping by a factor on the device rounds it to fp32, which is all that differs."""
    overrides = ("train.horizon=8steps", "train.clip_grad_norm=null", optimizer)
    usual = place.train(*overrides).folder
    kept_back: list[bool] = []
    keep_back = DeviceGuard.keep_back

    def counting(guard: DeviceGuard, trouble: torch.Tensor) -> None:
        kept_back.append(bool(trouble))
        keep_back(guard, trouble)

    monkeypatch.setattr(DeviceGuard, "keep_back", counting)
    as_on_a_gpu(monkeypatch)
    same_end(usual, place.train(*overrides).folder)
    assert kept_back == [False] * 8


def test_clipping_on_the_device_is_that_on_the_host_but_for_its_rounding(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("train.horizon=8steps", "train.clip_grad_norm=0.2")
    usual = place.train(*overrides).folder
    as_on_a_gpu(monkeypatch)
    other = last(place.train(*overrides).folder)["state_dict"]
    for name, value in last(usual)["state_dict"].items():
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "kind",
    [
        functools.partial(torch.optim.AdamW, fused=True),
        functools.partial(torch.optim.AdamW, foreach=True),
        torch.optim.RMSprop,
        Lion,
        Muon,
    ],
)
def test_the_guard_keeps_weights_back_for_good(kind: Callable[..., torch.optim.Optimizer]) -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = kind([weight], lr=0.1)
    guard = DeviceGuard(optimizer)

    def step(gradient: float) -> torch.Tensor:
        weight.grad = torch.full((2, 2), gradient)
        guard.keep_back(~weight.grad.norm().isfinite())
        optimizer.step()
        guard.take_back()
        return weight.detach().clone()

    first = step(1.0)
    assert not first.equal(torch.ones(2, 2))
    assert all(step(gradient).equal(first) for gradient in (math.nan, math.inf, 1.0))


def test_the_first_module_in_the_order_of_computation_is_named() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    rows = torch.ones(1, 2)
    assert first_non_finite(net, lambda: net(rows)) is None
    net[1][0].weight.data[0, 0] = math.nan
    net[2].weight.data[0, 0] = math.nan
    assert first_non_finite(net, lambda: net(rows)) == "1.0"
    assert not net[0]._forward_hooks


def test_the_first_non_finite_module_may_be_one_that_cpp_does_not_call() -> None:
    shape = ("model.vocab_size=300", "model.context_length=64", "data.sequence_length=64")
    experiment = compose([*shape, "tokenizer=byte", "model.qk_norm=true"])
    model = Decoder(experiment.model)
    torch.nn.init.constant_(model.blocks[0].attention.query_norm.weight, torch.nan)
    tokens = torch.arange(8)[None]
    assert first_non_finite(model, lambda: model(tokens)) == "blocks.0.attention.query_norm"


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
    assert [len(values) for values in copy.state_dict().values()] == [HISTORY] * 2, "the oldest is forgotten"
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


class Trace(TorchDispatchMode):
    """Counts the operations that Python calls."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> object:
        self.counts[operation.overloadpacket.__name__] += 1
        return operation(*arguments, **(options or {}))


@pytest.mark.parametrize("optimizer", ["optimizer=adamw", *UNFUSED])
def test_the_host_waits_for_a_gpu_at_no_update(
    optimizer: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three updates more bring no value more to the host.

    But for the look at the loss's own gradient, once a backward pass, which is taken on a CPU alone.
    """
    as_on_a_gpu(monkeypatch)
    counts = []
    for steps in (3, 6):
        overrides = (f"train.horizon={steps}steps", "train.log_every_steps=9", "train.eval_at_start=false")
        with Trace() as trace:
            place.train(*overrides, "train.eval_every_steps=9", "schedule=constant", optimizer)
        counts.append(trace.counts)
    more = counts[1] - counts[0]
    passes = 6 if "sharpness" in optimizer else 3
    assert more["_foreach_norm"] == passes, "the updates are in the trace"
    assert {name: more[name] for name in WAITS if more[name]} == {"_local_scalar_dense": passes}
