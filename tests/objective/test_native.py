"""The head in C++ against float64, and the whole objective with it and without."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import lmx.native
from lmx.native import kernels, left_out
from lmx.objective import FusedObjective, Settings, Tiling, native
from lmx.objective.softmax import Head, Softmax, softmax_rows
from lmx.objective.workspace import Workspace


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    torch.set_num_threads(request.param)  # back to one at the end of the module
    yield request.param
    torch.set_num_threads(1)


def inputs(
    rows: int, vocabulary: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states and weight, rounded to `dtype`, a bias, and targets."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=draw).to(dtype)
    weight = (3 * torch.randn(vocabulary, width, generator=draw) / width**0.5).to(dtype)
    bias = torch.randn(vocabulary, generator=draw)
    return hidden, weight, bias, torch.randint(vocabulary, (rows,), generator=draw)


def run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    softcap: float | None = None,
    kept: bool = True,
    sloped: bool = True,
) -> tuple[Softmax, Tensor | None]:
    """Return what C++ sees, and the exponentials it leaves, (R, V)."""
    if not lmx.native.multiplies(hidden.dtype):
        pytest.skip(f"torch has no such product of {hidden.dtype} on this processor")
    head = Head(weight, bias, softcap, hidden.dtype, torch.float32, Workspace())
    assert head.native
    keep = head.like_keep("keep", len(hidden)).fill_(math.nan) if kept else None
    choices = {"columns": 1, "rank": True, "fused": None, "sloped": sloped, "pull": True}
    return softmax_rows(head, hidden, targets, keep=keep, **choices), keep


def assert_right(
    got: tuple[Softmax, Tensor | None],
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    softcap: float | None = None,
    sloped: bool = True,
) -> None:
    """Compare with the formulas in float64."""
    softmax, keep = got
    x = hidden.double() @ weight.double().t()
    x = x if bias is None else x + bias
    x = x if softcap is None else softcap * torch.tanh(x / softcap)
    log_p = x.log_softmax(-1)
    own = x.gather(1, targets[:, None])
    close = {"rtol": 3e-6, "atol": 3e-6}
    torch.testing.assert_close(softmax.nats.double(), -log_p.gather(1, targets[:, None])[:, 0], **close)
    entropy = -(log_p.exp() * log_p).sum(-1)
    torch.testing.assert_close(softmax.entropy.double(), entropy, rtol=3e-6, atol=2e-5)
    torch.testing.assert_close(softmax.confidence.double(), log_p.exp().amax(-1), rtol=2e-5, atol=1e-6)
    assert softmax.rank is not None
    hair = 1e-6 * x.abs().amax()  # closer logits than this may change places
    assert ((x > own + hair).sum(-1) <= softmax.rank).all()
    assert (softmax.rank <= (x >= own - hair).sum(-1) - 1).all()
    if keep is None:
        assert softmax.pull is None
        return
    wanted = log_p.exp()
    if sloped:
        wanted = wanted if softcap is None else wanted * (1 - (x / softcap).square())
        wanted = wanted.scatter(1, targets[:, None], 0.0)
    rounding = 2**-8 if keep.dtype == torch.bfloat16 else 1e-6 * float(x.abs().amax() + 5)
    got_p = keep.double() / softmax.total[:, None].double()
    torch.testing.assert_close(got_p, wanted, rtol=rounding, atol=1e-6)
    if sloped:
        assert softmax.pull is not None
        pull = softmax.pull.double() / softmax.total[:, None].double()
        off = (pull - wanted @ weight.double()).abs()
        assert (off <= rounding * (wanted @ weight.double().abs()) + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "vocabulary", "width"), [(1, 1, 2), (5, 127, 16), (33, 401, 6), (600, 1031, 512)]
)
def test_equals_the_formulas(dtype, softcap, bias, rows, vocabulary, width, threads):
    """Odd sizes too: rows beside whole registers, tiles of an odd width, several blocks of rows."""
    hidden, weight, added, targets = inputs(rows, vocabulary, width, dtype)
    batch = hidden, weight, added if bias else None, targets
    for kept, sloped in ((False, False), (True, False), (True, True)):
        got = run(*batch, softcap=softcap, kept=kept, sloped=sloped)
        assert_right(got, *batch, softcap=softcap, sloped=sloped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("height", [45.0, 300.0])
@pytest.mark.parametrize("where", [3, 200, 400])
def test_references_move_out_of_the_way(dtype, height, where, threads):
    """Of some rows a logit is far above all others: what was summed and kept before it becomes smaller."""
    hidden, weight, bias, targets = inputs(40, 401, 16, dtype)
    hidden, weight = hidden / 4, weight / 4
    hidden[:, 0] = 0
    hidden[::3, 0] = 1
    weight[:, 0] = torch.linspace(-1, 1, 401)  # and another one, less high, stands before it or after
    weight[where, 0] = height
    weight[where // 2, 0] = height - 4
    batch = hidden, weight, bias, targets.where(targets != where, 0)
    assert_right(run(*batch), *batch)


def test_exponentials_are_exact_to_float32():
    """Sixteen rows of logits from −60 to 39 beside a reference of 0."""
    x = torch.linspace(-60, 39, 4000)
    hidden, weight = torch.zeros(16, 2), torch.zeros(4001, 2)
    hidden[:, 0] = 1
    weight[1:, 0] = x
    _, keep = run(hidden, weight, None, torch.zeros(16, dtype=torch.int64), sloped=False)
    assert keep is not None
    error = keep[0, 1:].double() / x.double().exp() - 1
    assert error.abs().max() < 4e-6  # that of x · log₂e in float32, the same as torch's own exp2 of it
    assert error[x.abs() < 10].abs().max() < 8e-7


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(value, threads):
    hidden, weight, bias, targets = inputs(20, 400, 8, torch.bfloat16)
    hidden[2, 3] = value
    softmax, _ = run(hidden, weight, bias, targets)
    assert softmax.nats.isfinite().tolist() == [row != 2 for row in range(20)]


def test_weights_in_bfloat16_are_taken_as_they_are():
    hidden, weight, bias, targets = inputs(20, 400, 8, torch.bfloat16)
    one, _ = run(hidden, weight, bias, targets)
    other, _ = run(hidden, weight.float(), bias, targets)
    assert one.nats.equal(other.nats)
    assert one.pull is not None
    assert one.pull.equal(other.pull)


def test_a_bias_with_gaps_and_targets_of_32_bits():
    hidden, weight, _, targets = inputs(20, 400, 8, torch.float32)
    bias = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))[:, 1]
    got, _ = run(hidden, weight, bias, targets.int())
    wanted, _ = run(hidden, weight, bias.clone(), targets)
    assert got.nats.equal(wanted.nats)


def test_more_threads_than_parts_share_out_the_rows():
    batch = inputs(1000, 1031, 384, torch.float32)
    torch.set_num_threads(27)
    try:
        assert_right(run(*batch), *batch)
    finally:
        torch.set_num_threads(1)


def test_a_product_that_torch_refuses(monkeypatch: pytest.MonkeyPatch):
    """As where oneDNN is switched off: no exception leaves a thread, and plain torch is there before."""
    hidden, weight, bias, targets = inputs(20, 400, 8, torch.bfloat16)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not native.takes(weight, torch.bfloat16)
        monkeypatch.setattr(lmx.native, "multiplies", lambda dtype: True)
        with pytest.raises(RuntimeError, match="torch refused a product"):
            run(hidden, weight, bias, targets)


def test_what_it_does_not_take():
    weight = torch.randn(10, 6)
    assert native.takes(weight, torch.float32)
    assert native.takes(weight, torch.bfloat16)
    assert not native.takes(weight.double(), torch.float64)
    assert not native.takes(weight[:, :5].contiguous(), torch.bfloat16), "two numbers at a time"
    assert not native.takes(weight[:, :4], torch.float32), "no row behind the other"
    assert not native.takes(weight.bfloat16(), torch.float32)


def test_another_version_of_torch(monkeypatch: pytest.MonkeyPatch):
    """Where torch has no such product any more, plain torch does everything."""
    monkeypatch.setattr(kernels, "_PRODUCTS", ("no_such_function", *kernels._PRODUCTS[1:]))
    wanted = measured(FusedObjective(SETTINGS))
    kernels._products.cache_clear()
    try:
        assert not native.takes(torch.randn(10, 6), torch.float32)
        for one, other in zip(measured(FusedObjective(SETTINGS)), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    finally:
        kernels._products.cache_clear()


def measured(objective: FusedObjective) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(24, 16, generator=draw).requires_grad_()
    weight = torch.randn(70, 16, generator=draw).requires_grad_()
    targets = torch.randint(70, (24,), generator=draw)
    sums = objective(hidden, targets, weight=weight)
    sums.loss.backward()
    return [
        sums.nats,
        sums.entropy,
        sums.correct,
        sums.correct_top5,
        sums.confidence,
        hidden.grad,
        weight.grad,
    ]


SETTINGS = Settings(tiling=Tiling(rows=12, columns=32))


def test_without_it_plain_torch_serves():
    compiled = measured(FusedObjective(SETTINGS))
    with left_out():
        plain = measured(FusedObjective(SETTINGS))
    for got, wanted in zip(plain, compiled, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sure", [0.0, 6.0, 12.0])
def test_gradients_are_more_exact_than_plain_torchs(sure: float):
    """Against float64 on the same rounded numbers, for targets from unlikely to all but certain."""
    draw = torch.Generator().manual_seed(2)
    weight = 0.3 * torch.randn(700, 48, generator=draw)
    targets = torch.randint(700, (512,), generator=draw)
    rows = weight[targets]
    hidden = torch.randn(512, 48, generator=draw) + sure * rows / rows.square().sum(-1, keepdim=True)
    hidden, weight = hidden.bfloat16().float(), weight.bfloat16().float()

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        inputs = [tensor.to(dtype, copy=True).requires_grad_() for tensor in (hidden, weight)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            FusedObjective(SETTINGS)(inputs[0], targets, weight=inputs[1]).loss.backward()
        return [tensor.grad.double() for tensor in inputs]

    exact, compiled = gradients(torch.float64), gradients(torch.float32)
    with left_out():
        plains = gradients(torch.float32)
    for wanted, got, plain in zip(exact, compiled, plains, strict=True):
        error, usual = (got - wanted), (plain - wanted)
        assert 0 < error.norm() < 0.6 * usual.norm(), error.norm() / usual.norm()
        assert abs((error * wanted).sum() / wanted.square().sum()) < 5e-5, "a gradient too long or too short"


def test_a_softcap_that_is_a_whole_number():
    one, two = (
        measured(FusedObjective(Settings(softcap=softcap, tiling=SETTINGS.tiling))) for softcap in (30, 30.0)
    )
    assert all(a.equal(b) for a, b in zip(one, two, strict=True))
