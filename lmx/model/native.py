"""The work of a layer between its products, in C++ (lmx.native), as functions that autograd knows.

On a CPU such work is bound by memory and by torch's many small operations; here each tensor is read once and
written once. What is computed is what the modules say in plain torch, with fewer roundings in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmx import native
from lmx.model.position import Rotation

ACTIVATIONS = {"swiglu": "silu", "silu": "silu", "gelu_tanh": "gelu_tanh"}
"""Of the activations that a configuration may name, those there are, by the function they apply."""

_CHUNK = 64  # rows whose gradients of a norm's weight are added up by one thread
QUERIES = 128  # of a block of attention: fewer see less in vain, but make smaller products


def takes(x: Tensor) -> bool:
    """Whether `x` can be worked on here: float32 or bfloat16, on a CPU, neither traced nor transformed."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.device.type != "cpu":
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:  # torch.func
        return False
    return x.dtype in (torch.float32, torch.bfloat16) and native.available()


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a linear layer multiplies `x`, where that is one of those here."""
    lowered = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return torch.bfloat16 if lowered else x.dtype


def normalise(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, centred: bool, dtype: torch.dtype
) -> Tensor:
    """Return RMSNorm of ``(..., C)``, or LayerNorm if `centred`, in `dtype`; weight and bias are ``(C,)``."""
    bias = None if bias is None else bias.float()
    return _Norm.apply(x.contiguous(), weight.float(), bias, float(eps), centred, dtype)


def activate(name: str, x: Tensor, up: Tensor | None) -> Tensor:
    """Return the activation of `x`, times `up` if there is one; `name` is of `ACTIVATIONS`."""
    gelu = ACTIVATIONS[name] == "gelu_tanh"
    return _Activation.apply(x.contiguous(), None if up is None else up.contiguous(), gelu)


def split_heads(
    x: Tensor,
    heads: int,
    *,
    weight: Tensor | None = None,
    eps: float = 0.0,
    rotation: Rotation | None = None,
    layout: str = "half",
    factor: float = 1.0,
) -> Tensor:
    """Turn ``(B, T, H·D)`` into ``(B, H, T, D)``, times `factor`.

    Before, each head is RMS-normalised with `weight` ``(D,)``, then rotated, where these are given.
    """
    weight = None if weight is None else weight.float()
    cos, sin = (part.contiguous() for part in rotation) if rotation is not None else (None, None)
    return _Heads.apply(x.contiguous(), weight, cos, sin, heads, eps, layout == "interleaved", factor)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Return causal attention, all of ``(B, H, T, D)``: softmax(query · keyᵀ + bias) · value.

    `bias` ``(B or 1, H or 1, T, T)`` need not hide what comes later. Queries are taken in blocks, each with
    the keys up to its last query: little more than half of all products is made.
    """
    return _Attention.apply(query, key, value, bias)


def _is_half(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16


def _exact(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _chunks(rows: int) -> int:
    return -(-rows // _CHUNK)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        centred: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        width = x.shape[-1]
        rows = x.numel() // width
        assert dtype == x.dtype or (x.dtype, dtype) == (torch.float32, torch.bfloat16), (x.dtype, dtype)
        y = x.new_empty(x.shape, dtype=dtype)
        mean, scale = _exact(x, rows) if centred else None, _exact(x, rows)
        native.call("norm", x, _is_half(x), weight, bias, eps, y, _is_half(y), mean, scale, rows, width)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.biased = bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        rows, width = len(scale), x.shape[-1]
        d_y, d_x = d_y.contiguous(), torch.empty_like(x)
        d_weight = _exact(x, _chunks(rows), width).zero_()
        d_bias = torch.zeros_like(d_weight) if ctx.biased else None
        half = _is_half(d_y), _is_half(x)
        native.call(
            *("norm_backward", d_y, half[0], x, half[1], weight, mean, scale, d_x, d_weight, d_bias),
            *(_CHUNK, rows, width),
        )
        return d_x, d_weight.sum(0), None if d_bias is None else d_bias.sum(0), None, None, None


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor | None, gelu: bool) -> Tensor:
        out = torch.empty_like(x)
        native.call("activation", gelu, _is_half(x), x, up, out, x.numel())
        ctx.save_for_backward(x, up)
        ctx.gelu = gelu
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        x, up = ctx.saved_tensors
        d, d_x = d.contiguous(), torch.empty_like(x)
        d_up = None if up is None else torch.empty_like(up)
        native.call("activation_backward", ctx.gelu, _is_half(x), d, x, up, d_x, d_up, x.numel())
        return d_x, d_up, None


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        cos: Tensor | None,
        sin: Tensor | None,
        heads: int,
        eps: float,
        interleaved: bool,
        factor: float,
    ) -> Tensor:
        batch, length, width = x.shape
        assert cos is None or cos.dtype == torch.float32
        shape = batch, length, heads, width // heads
        out = x.new_empty(batch, heads, length, width // heads)
        scale = None if weight is None else _exact(x, batch * length * heads)
        stride = 0 if cos is None or len(cos) == 1 else cos.stride(0)
        turn = cos, sin, stride, interleaved
        native.call("heads", x, _is_half(x), weight, float(eps), *turn, float(factor), out, scale, *shape)
        ctx.save_for_backward(x if weight is not None else None, weight, cos, sin, scale)
        ctx.shape, ctx.stride, ctx.interleaved, ctx.factor = shape, stride, interleaved, float(factor)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, cos, sin, scale = ctx.saved_tensors
        batch, length, heads, dim = ctx.shape
        d_out = d_out.contiguous()
        d_x = d_out.new_empty(batch, length, heads * dim)
        d_weight = None if weight is None else _exact(d_out, _chunks(batch * length), dim).zero_()
        turn = cos, sin, ctx.stride, ctx.interleaved, ctx.factor
        native.call(
            *("heads_backward", d_out, x, _is_half(d_out), weight, *turn, scale, d_x, d_weight, _CHUNK),
            *ctx.shape,
        )
        return d_x, None if d_weight is None else d_weight.sum(0), *[None] * 6


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = (x.flatten(0, 1) for x in (query, key, value))  # (B·H, T, D)
        out = torch.empty_like(v)
        weights = []
        with torch.autocast("cpu", enabled=False):
            for start, stop in _blocks(q.shape[1]):
                scores = torch.bmm(q[:, start:stop], k[:, :stop].transpose(1, 2))
                _softmax(scores, start, bias, query.shape[1])
                torch.bmm(scores, v[:, :stop], out=out[:, start:stop])
                weights.append(scores)
        ctx.save_for_backward(q, k, v, *weights)
        return out.view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        d = d_out.flatten(0, 1)
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        blocks = list(zip(_blocks(q.shape[1]), weights, strict=True))
        with torch.autocast("cpu", enabled=False):
            for (start, stop), p in reversed(blocks):
                rows = d[:, start:stop]
                d_scores = torch.bmm(rows, v[:, :stop].transpose(1, 2))
                shape = d_scores.shape
                native.call("softmax_backward", p, d_scores, _is_half(p), *shape, start)
                torch.bmm(d_scores, k[:, :stop], out=d_q[:, start:stop])
                _add_product(d_v[:, :stop], p, rows, stop == q.shape[1])
                _add_product(d_k[:, :stop], d_scores, q[:, start:stop], stop == q.shape[1])
        shape = d_out.shape
        return d_q.view(shape), d_k.view(shape), d_v.view(shape), None


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """Cut the queries 0 … length into blocks of about `QUERIES`."""
    count = -(-length // QUERIES)
    for number in range(count):
        yield number * length // count, (number + 1) * length // count


def _softmax(scores: Tensor, first: int, bias: Tensor | None, heads: int) -> None:
    """Turn scores (B·H, queries, keys) of the queries from `first` on into weights, where they stand."""
    strides = (0, 0, 0)
    if bias is not None:
        bias = bias.float().contiguous()
        strides = (
            0 if bias.shape[0] == 1 else bias.stride(0),
            0 if bias.shape[1] == 1 else bias.stride(1),
            bias.stride(2),
        )
    native.call("softmax", scores, _is_half(scores), *scores.shape, first, bias, heads, *strides)


def _add_product(total: Tensor, left: Tensor, right: Tensor, fresh: bool) -> None:
    """Add leftᵀ · right to `total`, or write it there."""
    if fresh:
        torch.bmm(left.transpose(1, 2), right, out=total)
    else:
        total.baddbmm_(left.transpose(1, 2), right)
