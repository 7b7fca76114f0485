"""Updates that take the gradient of their batch twice: sharpness-aware ones, and the mix in parts."""

from __future__ import annotations

import copy

import pytest
import torch
from test_gradients import batches, job_of, reference_loss
from training_helpers import PACKINGS, Place, as_on_a_gpu, exact, last, lines, same_end, signal_at

from lmx.config import ConfigError
from lmx.config.compose import compose
from lmx.optim import AdaRMSuon, Sharpness
from lmx.training.fit import check_precision

SHARP = ("optimizer=ars2_neo", "optimizer.lr=0.01", "schedule=constant", "train.log_every_steps=1")
# an eps that keeps rounding from deciding the sign of an entry's update
SHARP = (*SHARP, "train.clip_grad_norm=0.5", "optimizer.update.eps=1e-3", "optimizer.rest.eps=1e-3")
SHARP = (*SHARP, "+optimizer.update.ns_dtype=fp32")
MIX = ("objective=cosine_mix", "objective.alpha=0.3", "objective.top_k=20", "objective.temperature=1.5")


def slow_run(place: Place, steps: int) -> dict[str, torch.Tensor]:
    """The same updates in a plain loop of float64, one big batch at a time."""
    job = job_of(place, *SHARP, *PACKINGS["sentences"])
    model = copy.deepcopy(job.module.model).double()
    named = dict(model.named_parameters())
    hidden = [p for name, p in named.items() if p.ndim == 2 and name.startswith("blocks.")]
    rest = [p for p in named.values() if not any(p is h for h in hidden)]
    decaying = {p: 0.1 if p.ndim == 2 else 0.0 for p in named.values()}
    first = AdaRMSuon(hidden, lr=0.01, eps=1e-3, weight_decay=0.1, ns_dtype="fp32")
    groups = [{"params": [p], "weight_decay": decaying[p]} for p in rest]
    second = torch.optim.AdamW(groups, lr=0.01, eps=1e-3)
    for batch in batches(job, steps):
        model.zero_grad()
        reference_loss(model, batch).backward()
        before = {p: p.detach().clone() for p in named.values()}
        for optimizer in (first, second):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    state = optimizer.state.get(p, {})
                    divisor = 1.0
                    if state:
                        divisor = (state["exp_avg_sq"] / (1 - 0.999 ** int(state["step"]))).sqrt() + 1e-3
                    natural = p.grad / divisor * p.detach().abs()
                    with torch.no_grad():
                        p.add_(0.1 * natural / natural.norm().clamp(min=1e-12))
        model.zero_grad()
        reference_loss(model, batch).backward()
        with torch.no_grad():
            for p, value in before.items():
                p.copy_(value)
        torch.nn.utils.clip_grad_norm_(list(named.values()), 0.5)
        first.step()
        second.step()
    return {f"model.{name}": p.detach() for name, p in named.items()}


def test_sharpness_aware_updates_are_those_of_a_plain_loop(place: Place) -> None:
    expected = slow_run(place, 3)
    overrides = (*SHARP, *PACKINGS["sentences"], "train.horizon=3steps", "hardware.micro_batch_size=2")
    found = last(place.train(*overrides).folder)["state_dict"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=3e-5, msg=name)


def test_measures_are_taken_at_the_weights_themselves(place: Place) -> None:
    sharp = place.train(*SHARP, "train.horizon=1steps").folder
    plain = place.train(*SHARP, "train.horizon=1steps", "optimizer.sharpness_rho=0").folder
    one, other = lines(sharp, "train")[0], lines(plain, "train")[0]
    assert {name: one[name] for name in one if name.startswith("train/")} == {
        name: other[name] for name in other if name.startswith("train/")
    }
    assert one["flops"] == 2 * other["flops"]
    assert sharp.read_identity()["flops_per_token"] == 2 * plain.read_identity()["flops_per_token"]
    weights = last(sharp)["state_dict"], last(plain)["state_dict"]
    assert not torch.equal(weights[0]["model.embedding.weight"], weights[1]["model.embedding.weight"])


def test_a_stopped_sharpness_aware_run_ends_bit_identical(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*SHARP, "train.horizon=6steps", "model.residual_dropout=0.1", "hardware.micro_batch_size=4")
    whole = place.train(*overrides).folder
    with monkeypatch.context() as patch:
        signal_at(patch, 4)
        stopped = place.train(*overrides)
    assert (stopped.exit_status, stopped.step) == (143, 4)
    same_end(whole, place.resume(stopped.folder).folder)


@pytest.mark.slow
def test_two_processes_make_the_sharpness_aware_run_of_one(place: Place) -> None:
    overrides = (*SHARP, *PACKINGS["sentences"], "train.horizon=5steps")
    single = place.train(*overrides).folder
    double = place.train(*overrides, "hardware=ddp_cpu", "hardware.micro_batch_size=2").folder
    for name, value in last(single)["state_dict"].items():
        torch.testing.assert_close(last(double)["state_dict"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    for one, other in zip(lines(single, "train"), lines(double, "train"), strict=True):
        assert other["train/grad_norm"] == pytest.approx(one["train/grad_norm"], rel=1e-4)


def test_what_drops_out_in_the_first_pass_does_so_in_the_second(place: Place) -> None:
    """At a radius of nothing the second gradient is the first."""
    overrides = (*SHARP, "model.residual_dropout=0.3", "train.horizon=1steps")
    sharp = place.train(*overrides, "optimizer.sharpness_rho=1e-30").folder
    plain = place.train(*overrides, "optimizer.sharpness_rho=0").folder
    first, second = last(sharp)["state_dict"], last(plain)["state_dict"]
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("on_device", [False, True])
def test_a_non_finite_gradient_leaves_the_weights_where_they_were(
    on_device: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_device:
        as_on_a_gpu(monkeypatch)
    moved = []
    perturbed = Sharpness.perturbed

    def spoil(sharpness: Sharpness) -> object:
        parameter = sharpness.optimizer.param_groups[0]["params"][0]
        moved.append((parameter, parameter.detach().clone()))
        with torch.no_grad():
            parameter.grad[0] = float("nan")
        return perturbed(sharpness)

    monkeypatch.setattr(Sharpness, "perturbed", spoil)
    with pytest.raises(Exception, match=r"^step 1: the second gradient, .* is not finite"):
        place.train(*SHARP, "train.horizon=1steps")
    assert all(torch.equal(parameter, before) for parameter, before in moved)


def test_two_gradients_do_not_go_with_a_loss_scale() -> None:
    experiment = compose(SHARP)
    with pytest.raises(ConfigError, match=r"optimizer.sharpness_rho: got 0.1 with hardware.precision=fp16"):
        check_precision(experiment, "fp16")


@pytest.mark.parametrize(
    ("alpha", "precision", "within"),
    [(0.3, "fp32", 1e-4), (0.7, "fp32", 1e-4), (1.0, "fp32", 1e-4), (0.002, "bf16", 0.01)],
)
def test_the_parts_of_the_mix_are_measured_apart(
    place: Place, alpha: float, precision: str, within: float
) -> None:
    overrides = (*MIX[:1], *MIX[2:], f"objective.alpha={alpha}", f"hardware.precision={precision}")
    overrides = (*overrides, "train.horizon=1steps", "train.log_every_steps=1", "schedule=constant")
    job = job_of(place, *overrides)
    batch = batches(job, 1)[0]
    model = copy.deepcopy(job.module.model).double()
    hidden = model(batch["tokens"]).flatten(0, 1)
    targets = batch["targets"].flatten()
    p = (model.logits(hidden) / 1.5).softmax(-1)
    values, indices = p.topk(20)
    expected = (values[..., None] * model.embedding.weight[indices]).sum(1)
    similarity = torch.cosine_similarity(expected, model.embedding.weight[targets])
    parameters = list(model.parameters())
    cosine = torch.nn.utils.get_total_norm(torch.autograd.grad((1 - similarity).mean(), parameters))
    plain = torch.nn.utils.get_total_norm(torch.autograd.grad(reference_loss(model, batch), parameters))
    folder = place.train(*overrides, "hardware.micro_batch_size=2").folder
    line = lines(folder, "train")[0]
    assert line["train/cosine"] == pytest.approx((1 - similarity).mean().item(), rel=within)
    assert line["train/grad_norm_cosine"] == pytest.approx(cosine.item(), rel=within)
    assert line["train/grad_norm_cross_entropy"] == pytest.approx(plain.item(), rel=within)
    assert line["train/loss"] == pytest.approx(reference_loss(model, batch).item(), rel=within)
    assert [line["step"] for line in lines(folder, "val") if "val/cosine" in line] == [0, 1]


def test_measuring_the_parts_changes_nothing(place: Place) -> None:
    overrides = (*MIX, "train.horizon=5steps", "model.residual_dropout=0.2", "train.eval_every_steps=5")
    often = place.train(*overrides, "train.log_every_steps=1").folder
    seldom = place.train(*overrides, "train.log_every_steps=5").folder
    first, second = last(often)["state_dict"], last(seldom)["state_dict"]
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with_parts = [line for line in exact(often) if "train/grad_norm_cosine" in line]
    assert len(with_parts) == 5


def test_without_a_share_the_mix_is_cross_entropy(place: Place) -> None:
    overrides = ("train.horizon=4steps", "train.log_every_steps=2")
    mixed = place.train(*overrides, "objective=cosine_mix", "objective.alpha=0").folder
    plain = place.train(*overrides).folder
    same_end(mixed, plain)
    assert lines(mixed)[0]["step"] == 0, "the untrained model is the reference"
