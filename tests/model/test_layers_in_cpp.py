"""What C++ does between the products of a layer, against plain formulas in float64 and plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from model_helpers import random_tokens, tiny_model
from torch import Tensor

from lmx.model import native
from lmx.model.position import alibi_slopes, rope_rotation, rotate
from lmx.native import left_out

EXACT, ROUNDED = 2e-5, 1e-2
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
Function = Callable[..., Tensor]


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def compare(ours: Function, formula: Function, *inputs: Tensor, tolerance: float | None = None) -> None:
    """Compare values and all gradients with those of `formula`, which is computed in float64."""
    tolerance = tolerance or (EXACT if inputs[0].dtype == torch.float32 else ROUNDED)
    sides = []
    for function, exact in ((ours, False), (formula, True)):
        leaves = [x.double() if exact else x.clone() for x in inputs]
        for leaf in leaves:
            leaf.requires_grad_()
        out = function(*leaves)
        out.backward(draw(*out.shape, seed=9).to(out.dtype))
        sides.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for got, wanted in zip(*sides, strict=True):
        # of a single key the weight is 1, and no gradient reaches query and key
        error = (got.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3)
        assert error < tolerance, error


def swish(x: Tensor, up: Tensor | None = None) -> Tensor:
    return x / (1 + (-x).exp()) * (1 if up is None else up)


def gelu_by_tanh(x: Tensor, up: Tensor | None = None) -> Tensor:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + inner.tanh()) * (1 if up is None else up)


@DTYPES
@pytest.mark.parametrize(("name", "formula"), [("swiglu", swish), ("gelu_tanh", gelu_by_tanh)])
@pytest.mark.parametrize("gated", [False, True])
def test_activations(dtype: torch.dtype, name: str, formula: Function, gated: bool) -> None:
    x, up = 3 * draw(3, 5, 1031, dtype=dtype), draw(3, 5, 1031, dtype=dtype, seed=1)
    inputs = (x, up) if gated else (x,)
    compare(lambda x, up=None: native.activate(name, x, up), formula, *inputs)


@pytest.mark.parametrize("name", ["silu", "gelu_tanh"])
def test_activations_far_from_zero(name: str) -> None:
    x = torch.tensor(
        [-1e30, -500.0, -90.0, -20.0, 0.0, 20.0, 90.0, 500.0, 1e30, math.nan], requires_grad=True
    )
    y = native.activate(name, x, None)
    y.sum().backward()
    assert y.isnan().tolist() == [False] * 9 + [True]
    torch.testing.assert_close(y[:9], x.detach()[:9].clamp(min=0), rtol=0, atol=1e-6)
    assert x.grad is not None
    torch.testing.assert_close(x.grad[[1, 2, 3]], torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(x.grad[[4, 5, 6, 7]], torch.tensor([0.5, 1, 1, 1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "dtypes", [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")], ids="-".join
)
@pytest.mark.parametrize("rows", [1, 150])
@pytest.mark.parametrize(("centred", "biased"), [(False, False), (True, False), (True, True)])
def test_norms(dtypes: tuple[str, str], rows: int, centred: bool, biased: bool) -> None:
    width = 37
    given, taken = (getattr(torch, name) for name in dtypes)
    x, weight, bias = draw(rows, 1, width) + 0.5, 1 + 0.1 * draw(width, seed=1), draw(width, seed=2)
    parameters = (weight, bias) if biased else (weight,)

    def ours(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = native.normalise(x.to(given), weight, bias, 1e-5, centred=centred, dtype=taken)
        assert y.dtype == taken
        return y.float()

    def formula(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if centred else x
        y = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
        return y if bias is None else y + bias

    tolerance = ROUNDED if torch.bfloat16 in (given, taken) else EXACT
    compare(ours, formula, x.to(given).float(), *parameters, tolerance=tolerance)


@DTYPES
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("turned", ["", "half", "interleaved", "of each row"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (3, 70, 3, 10), (2, 130, 2, 32)])
def test_heads(dtype: torch.dtype, normalised: bool, turned: str, shape: tuple[int, int, int, int]) -> None:
    batch, length, heads, dim = shape
    rows = batch if turned == "of each row" else 1
    places = torch.arange(rows * length).view(rows, length) * 3 % 41
    rotation = rope_rotation(places, dim, 100.0) if turned else None
    layout = "interleaved" if turned == "interleaved" else "half"

    def ours(x: Tensor, weight: Tensor | None = None) -> Tensor:
        made = native.split_heads(
            x, heads, weight=weight, eps=1e-5, rotation=rotation, layout=layout, factor=0.3
        )
        assert made.is_contiguous()
        return made

    def formula(x: Tensor, weight: Tensor | None = None) -> Tensor:
        x = x.unflatten(-1, (heads, dim)).transpose(1, 2)
        if weight is not None:
            x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
        return 0.3 * (x if rotation is None else rotate(x, rotation, layout))

    x, weight = draw(batch, length, heads * dim, dtype=dtype), 1 + 0.1 * draw(dim, seed=1)
    # two rows of two numbers: a gradient of the norm is a difference of nearly equal numbers
    tolerance = None if x.numel() > 2 or dtype == torch.float32 else 0.03
    compare(ours, formula, x, *([weight] if normalised else []), tolerance=tolerance)


def bias_of(kind: str, batch: int, heads: int, length: int) -> Tensor | None:
    distance = torch.arange(length)[:, None] - torch.arange(length)
    if kind == "none":
        return None
    if kind == "window":
        return torch.zeros(1, 1, length, length).masked_fill(distance >= 5, -math.inf)
    if kind == "slopes":
        return (-alibi_slopes(heads)[:, None, None] * distance)[None]
    documents = torch.arange(length)[None].mul(torch.arange(1, batch + 1)[:, None]) // 19  # (B, T)
    apart = documents[:, None, :, None] != documents[:, None, None, :]
    return torch.zeros(batch, 1, length, length).masked_fill(apart, -math.inf)


@DTYPES
@pytest.mark.parametrize("kind", ["none", "window", "slopes", "documents"])
@pytest.mark.parametrize("length", [1, 7, 128, 129, 300])  # of one block, and of several
def test_attention(dtype: torch.dtype, kind: str, length: int) -> None:
    batch, heads = 2, 3
    bias = bias_of(kind, batch, heads, length)

    def formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = query @ key.transpose(-1, -2) + (0 if bias is None else bias)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -math.inf).softmax(-1) @ value

    inputs = [draw(batch, heads, length, 16, dtype=dtype, seed=seed) for seed in range(3)]
    inputs[0] = inputs[0] * 0.3
    # weights, which are at most 1, are rounded to 1/256 before they are summed up
    compare(
        lambda *x: native.attend(*x, bias), formula, *inputs, tolerance=None if dtype.itemsize > 2 else 0.03
    )


def test_a_key_hidden_by_the_bias_weighs_nothing() -> None:
    bias = torch.zeros(1, 1, 4, 4)
    bias[..., 0] = -math.inf
    bias[..., 0, 0] = 0.0
    value = torch.zeros(1, 1, 4, 1)
    value[0, 0, 0] = 1e38
    mixed = native.attend(torch.ones(1, 1, 4, 1), torch.ones(1, 1, 4, 1), value, bias)
    assert mixed.flatten()[1:].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_none_spreads_to_those_who_see_it(bad: float) -> None:
    query, key, value = (draw(1, 1, 6, 4, seed=seed) for seed in range(3))
    key[0, 0, 3, 0] = bad
    mixed = native.attend(query.abs(), key, value, None)
    assert mixed.isfinite().all(-1).flatten().tolist() == [True] * 3 + [False] * 3


@DTYPES
def test_as_many_threads_as_there_are_give_the_same_bits(dtype: torch.dtype) -> None:
    x, up = (draw(4, 70, 64, dtype=dtype, seed=seed).requires_grad_() for seed in range(2))
    weight = torch.ones(16, requires_grad=True)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)  # back to one at the end of the module
        heads = native.split_heads(x, 4, weight=weight, eps=1e-5)
        wide = native.normalise(x, weight.repeat(4), None, 1e-5, centred=True, dtype=dtype)
        out = (native.activate("silu", wide, up).sum() + heads.square().sum()).float()
        results.append([out, *torch.autograd.grad(out, (x, up, weight))])
    for one, two in zip(*results, strict=True):
        assert one.equal(two)


SHAPES = {
    "default": {"qk_norm": True, "num_kv_heads": 2},
    "gpt2": {
        "norm": "layernorm",
        "activation": "gelu_tanh",
        "position": "learned",
        "attention_bias": True,
        "mlp_bias": True,
        "norm_bias": True,
    },
    "post": {"norm_position": "post", "sliding_window": 5, "rope_layout": "interleaved"},
    "documents": {"attend_within_documents": True, "position": "alibi"},
    "softcap": {"attention_softcap": 2.0},  # whose softmax is torch's
    "relu": {"norm": "none", "activation": "relu"},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_a_decoder_is_as_exact_as_in_plain_torch(shape: str, half: bool) -> None:
    model = tiny_model(context_length=300, **SHAPES[shape])  # type: ignore[arg-type]
    tokens = random_tokens(3, 160)
    documents = (torch.arange(160) // 50).repeat(3, 1) if shape == "documents" else None

    def results(model: torch.nn.Module) -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            hidden = model(tokens, documents=documents)
        F.cross_entropy(
            model.logits(hidden)[:, :-1].flatten(0, 1).double(), tokens[:, 1:].flatten()
        ).backward()  # type: ignore[operator]
        return [hidden.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    ours = results(model)
    with left_out():
        plain = results(model)
    if not half:
        for got, wanted in zip(ours, plain, strict=True):
            # of a key's bias, which changes no weight, rounding alone is seen
            atol = max(1e-8, 1e-5 * float(wanted.abs().max()))
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=atol)
        return
    half = False
    exact = results(model.double())
    errors = [
        sum(float((got - wanted).square().sum()) for got, wanted in zip(side, exact, strict=True))
        for side in (ours, plain)
    ]
    assert 0 < errors[0] < 1.2 * errors[1]


def test_a_second_backward_through_a_kept_graph() -> None:
    model = tiny_model(qk_norm=True)
    loss = model(random_tokens()).square().sum()
    first = torch.autograd.grad(loss, list(model.blocks.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(model.blocks.parameters()))
    assert all(one.equal(two) for one, two in zip(first, second, strict=True))


def test_a_backward_pass_under_another_autocast() -> None:
    inputs = [draw(1, 2, 5, 4, seed=seed).requires_grad_() for seed in range(3)]
    usual = torch.autograd.grad(native.attend(*inputs, None).sum(), inputs)
    total = native.attend(*inputs, None).sum()
    with torch.autocast("cpu", torch.bfloat16):
        lowered = torch.autograd.grad(total, inputs)
    assert all(one.equal(two) for one, two in zip(usual, lowered, strict=True))


def test_angles_in_another_order_of_memory() -> None:
    model, tokens = tiny_model(), random_tokens(2, 6)
    positions = torch.arange(12).view(2, 6)
    assert model(tokens, positions=positions).equal(model(tokens, positions=positions.t().contiguous().t()))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_what_is_traced_or_transformed_is_left_to_torch() -> None:
    model, tokens = tiny_model(), random_tokens()
    traced = torch.jit.trace(model, (tokens,))
    torch.testing.assert_close(traced(tokens), model(tokens))
    taken: list[bool] = []

    def watched(x: Tensor) -> Tensor:
        taken.append(native.takes(x))
        return x.square().sum()

    torch.func.grad(watched)(torch.ones(2))
    assert taken == [False]


def test_float64_and_the_compiler_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.takes(torch.zeros(1))
    assert not native.takes(torch.zeros(1, dtype=torch.float64))
    assert not native.takes(torch.zeros(1, dtype=torch.float16))
    assert not native.takes(torch.zeros(1, device="meta"))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not native.takes(torch.zeros(1))
