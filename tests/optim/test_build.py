"""Groups, options and the paired optimizer, built from configurations as the command line gives them."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from small_net import Net, make_net, set_gradients
from torch import nn

from lmx.config import ConfigError, OptimizerConfig
from lmx.config.compose import compose
from lmx.optim import Muon, PairedOptimizer, build_optimizer

ADAMW = {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.95], "eps": 1e-8, "fused": True}
MUON = {"_target_": "lmx.optim.Muon", "momentum": 0.95, "ns_dtype": "fp32"}


@pytest.fixture
def net() -> Net:
    """The tied network."""
    return make_net()


def settings(update: dict[str, Any], rest: dict[str, Any] | None = None, **fields: Any) -> OptimizerConfig:
    return OptimizerConfig(name="test", lr=fields.pop("lr", 0.01), update=update, rest=rest, **fields)


def paired(**fields: Any) -> OptimizerConfig:
    return settings(MUON, ADAMW | {"lr": 0.001}, weight_decay=0.1, **fields)


def names(optimizer: torch.optim.Optimizer) -> dict[str, list[str]]:
    return {group["name"]: group["param_names"] for group in optimizer.param_groups}


def test_groups_by_role_with_tied_weights_once() -> None:
    groups = names(build_optimizer(make_net(), settings(ADAMW)))
    assert set(groups) == {"embedding", "vector", "hidden"}
    assert groups["embedding"] == ["embedding.weight"]
    assert groups["hidden"] == [f"blocks.{i}.{part}.weight" for i in (0, 1) for part in ("up", "down", "mix")]
    assert "final_norm.weight" in groups["vector"]
    assert "blocks.0.up.bias" in groups["vector"]
    untied = names(build_optimizer(make_net(tied=False), settings(ADAMW)))
    assert untied["head"] == ["head.weight"]
    assert sum(map(len, untied.values())) == len(list(make_net(tied=False).parameters()))


@pytest.mark.parametrize(
    ("rule", "decaying"),
    [
        ("matrices", {"embedding", "head", "hidden"}),
        ("hidden", {"hidden"}),
        ("all", {"embedding", "head", "hidden", "vector"}),
    ],
)
def test_decay_rule(rule: str, decaying: set[str]) -> None:
    optimizer = build_optimizer(make_net(tied=False), settings(ADAMW, weight_decay=0.1, decay=rule))
    assert {g["name"] for g in optimizer.param_groups if g["weight_decay"] == 0.1} == decaying
    assert {g["name"] for g in optimizer.param_groups if g["weight_decay"] == 0.0} == {
        "embedding",
        "head",
        "hidden",
        "vector",
    } - decaying


def test_frozen_parameters_are_left_out(net: Net) -> None:
    net.embedding.weight.requires_grad_(False)
    assert "embedding" not in names(build_optimizer(net, settings(ADAMW)))


def test_adamw_is_the_hand_built_one() -> None:
    ours, theirs = make_net(), make_net()
    optimizer = build_optimizer(ours, settings(ADAMW, weight_decay=0.1))
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.01,
        betas=(0.9, 0.95),
        fused=True,
    )
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_pair_is_its_two_halves() -> None:
    ours, theirs = make_net(), make_net()
    optimizer = build_optimizer(ours, paired())
    assert isinstance(optimizer, PairedOptimizer)
    named = dict(theirs.named_parameters())
    hidden = [p for n, p in named.items() if n.startswith("blocks.") and p.ndim == 2]
    vectors = [p for p in named.values() if p.ndim < 2]
    muon = Muon(hidden, lr=0.01, weight_decay=0.1, ns_dtype="fp32")
    groups = [
        {"params": [theirs.embedding.weight], "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.001, betas=(0.9, 0.95), fused=True)
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        muon.step()
        adamw.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_pair_takes_rates_set_from_outside(net: Net) -> None:
    optimizer = build_optimizer(net, paired())
    assert [(g["name"], g["base_lr"]) for g in optimizer.param_groups] == [
        ("hidden", 0.01),
        ("embedding", 0.001),
        ("vector", 0.001),
    ]
    before = copy.deepcopy(net.state_dict())
    set_gradients(net, 0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())


ORTHOGONAL = [{"_target_": f"lmx.optim.{name}"} for name in ("RMSuon", "AdaRMSuon", "AdaMuon")]


@pytest.mark.parametrize(
    "config",
    [
        paired(),
        settings(ADAMW),
        settings({"_target_": "lmx.optim.Lion"}),
        *(settings(update, {**ADAMW, "lr": 0.01}) for update in ORTHOGONAL),
    ],
)
def test_saved_and_continued_is_bitwise_the_uninterrupted_run(config: OptimizerConfig) -> None:
    straight = make_net()
    optimizer = build_optimizer(straight, config)
    buffer = io.BytesIO()
    for step in range(6):
        if step == 3:
            torch.save([straight.state_dict(), optimizer.state_dict()], buffer)
        set_gradients(straight, step)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] / (step + 1)
        optimizer.step()
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)
    resumed = make_net()
    resumed.load_state_dict(weights)
    continued = build_optimizer(resumed, config)
    continued.load_state_dict(state)
    assert continued.param_groups[0]["lr"] == config.lr / 3
    for step in range(3, 6):
        set_gradients(resumed, step)
        for group in continued.param_groups:
            group["lr"] = group["base_lr"] / (step + 1)
        continued.step()
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    ends = continued.state_dict(), optimizer.state_dict()
    torch.testing.assert_close(ends[0]["state"], ends[1]["state"], atol=0, rtol=0)
    assert ends[0]["param_groups"] == ends[1]["param_groups"]


def test_pair_copies_hooks_and_refuses_groups(net: Net) -> None:
    optimizer = build_optimizer(net, paired())
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    set_gradients(net, 0)
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3
    assert calls == ["pre", "post"]
    both_net, both = copy.deepcopy((net, optimizer))
    for other, rule in ((net, optimizer), (both_net, both)):
        set_gradients(other, 1)
        rule.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), both_net.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="takes no more groups"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(ValueError, match="more than one parameter group"):
        PairedOptimizer(torch.optim.SGD(net.parameters()), torch.optim.SGD(net.parameters()))


def test_pair_in_lightning_with_manual_optimization(net: Net) -> None:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = net
            self.seen = 0

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return build_optimizer(self.net, paired())

        def training_step(self, batch: torch.Tensor, index: int) -> None:
            optimizer: Any = self.optimizers()
            self.manual_backward(self.net(batch[:, :-1]).square().mean())
            optimizer.step()
            optimizer.zero_grad()

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            assert isinstance(optimizer, PairedOptimizer)
            self.seen += 1

    before = copy.deepcopy(net.state_dict())
    module = Module()
    trainer = pl.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.randint(11, (12, 6)), batch_size=4))
    assert module.seen == trainer.global_step == 3
    assert not any(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_width_multipliers_split_groups_and_spare_muon(net: Net) -> None:
    def multiplier(name: str) -> float:
        return 0.25 if name.startswith("blocks.") and name.endswith("weight") and "norm" not in name else 1.0

    adamw = build_optimizer(net, settings(ADAMW), multiplier)
    rates = {group["name"]: group["base_lr"] for group in adamw.param_groups}
    assert rates == {"embedding": 0.01, "vector": 0.01, "hidden ×0.25": 0.0025}
    muon = build_optimizer(net, paired(), multiplier)
    assert {g["name"]: g["base_lr"] for g in muon.param_groups}["hidden"] == 0.01
    for kind, rest in (("torch.optim.SGD", None), ("lmx.optim.AdaMuon", ADAMW | {"lr": 0.001})):
        with pytest.raises(ConfigError, match=rf"optimizer.update._target_: got {kind} with muP's rates"):
            build_optimizer(net, settings({"_target_": kind}, rest), multiplier)


@pytest.mark.parametrize("preset", ["adamw", "muon", "sgd", "lion"])
def test_presets_build_and_lower_the_loss(preset: str) -> None:
    lowers_the_loss(f"optimizer={preset}")


@pytest.mark.parametrize("preset", ["rmsuon", "adarmsuon", "adamuon"])
def test_presets_of_large_models_do_so_at_a_higher_rate(preset: str) -> None:
    lowers_the_loss(f"optimizer={preset}", "optimizer.lr=3e-3")


def lowers_the_loss(*overrides: str) -> None:
    net = make_net()
    optimizer = build_optimizer(net, compose(overrides).optimizer)
    tokens = torch.arange(8).repeat(2, 1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("target", ["Adam", "Adafactor", "RMSprop", "NAdam", "RAdam"])
def test_every_allowed_class_builds(target: str, net: Net) -> None:
    optimizer = build_optimizer(net, settings({"_target_": f"torch.optim.{target}"}, weight_decay=0.1))
    set_gradients(net, 0)
    optimizer.step()
    assert type(optimizer).__name__ == target


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            settings({"_target_": "torch.optim.AdamW", "betaz": [0.9, 0.95]}),
            r"^optimizer.update.betaz: unknown option of torch.optim.AdamW; did you mean 'betas'\?$",
        ),
        (
            settings({"_target_": "lmx.optim.Lion", "xyzzy": 1}),
            "^optimizer.update.xyzzy: unknown option of lmx.optim.Lion; allowed: betas$",
        ),
        (
            settings(ADAMW | {"betas": [2, 3]}),
            "optimizer.update: torch.optim.AdamW refuses its options: Invalid beta",
        ),
        (
            settings(ADAMW | {"betas": [0.9]}),
            r"^optimizer.update.betas: got \[0.9\], allowed: \[a number, a number\]$",
        ),
        (settings(ADAMW | {"eps": "small"}), "optimizer.update.eps: got 'small', allowed: a number$"),
        (settings(ADAMW | {"eps": None}), "optimizer.update.eps: got None, allowed: a number$"),
        (
            settings(ADAMW | {"fused": "yes"}),
            "optimizer.update.fused: got 'yes', allowed: true or false or null$",
        ),
        (
            settings(ADAMW | {"weight_decay": 0.1}),
            "update.weight_decay: the decay stands in optimizer.weight_decay",
        ),
        (settings(ADAMW | {"params": []}), "optimizer.update.params: unknown option"),
        (
            settings(MUON | {"ns_steps": 2.5}, ADAMW | {"lr": 1}),
            "optimizer.update.ns_steps: got 2.5, allowed: a whole number",
        ),
        (
            settings(MUON | {"ns_dtype": "fp8"}, ADAMW | {"lr": 1}),
            "optimizer.update: lmx.optim.Muon refuses .*ns_dtype must be one of fp32, bf16, got 'fp8'",
        ),
        (settings(MUON), r"optimizer.update: lmx.optim.Muon refuses .*matrices only.*optimizer.rest"),
        (settings(MUON, ADAMW | {"lr": "fast"}), "optimizer.rest.lr: got 'fast', allowed: a number ≥ 0"),
        (settings(MUON, ADAMW | {"lr": float("nan")}), "optimizer.rest.lr: got nan, allowed: a number ≥ 0"),
        (settings(MUON, ADAMW | {"lr": 1, "fuzed": True}), "optimizer.rest.fuzed: .*did you mean 'fused'"),
        (
            settings({"_target_": "torch.optim.SGD", "nesterov": True}),
            "optimizer.update: torch.optim.SGD refuses its options: Nesterov momentum requires",
        ),
        (
            settings({"_target_": "torch.optim.Nope"}),
            "update._target_: got 'torch.optim.Nope', which has no import",
        ),
        (settings({"_target_": "torch.nn.Linear"}), "got 'torch.nn.Linear', allowed: a class of torch.optim"),
        (
            settings({"_target_": "torch.optim.Rprop"}, weight_decay=0.1),
            "optimizer.weight_decay: got 0.1, allowed with torch.optim.Rprop: 0",
        ),
    ],
)
def test_refusals_are_one_clear_line(config: OptimizerConfig, message: str, net: Net) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_optimizer(net, config)
    assert "\n" not in str(caught.value)


def test_muon_needs_hidden_matrices() -> None:
    with pytest.raises(ConfigError, match=r"got lmx.optim.Muon for hidden matrices, which the model lacks"):
        build_optimizer(make_net(layers=0), paired())


def test_importing_schedules_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, lmx.optim; from lmx.optim import lr_multiplier; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        __import__("lmx.optim").optim.Nope  # noqa: B018
