"""Linear layer and loss as one autograd function; the logits of a batch are never all in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmx.objective.cosine import CosineMix, CosineRows
from lmx.objective.gradients import Chunk, Gradients
from lmx.objective.softmax import Head, softmax_rows
from lmx.objective.sums import IGNORE_INDEX, TokenSums
from lmx.objective.tile import FusedPass
from lmx.objective.workspace import Tiling, Workspace, choose_tiling


@dataclass(frozen=True)
class Settings:
    """What of an objective does not change from call to call."""

    softcap: float | None = None
    mix: CosineMix | None = None
    tiling: Tiling | None = None  # None: chosen for the device and the sizes
    fused: FusedPass | None = None  # None: the softmax of a tile is plain torch


@dataclass(frozen=True)
class _Call:
    """Everything about a call that is not differentiated."""

    settings: Settings
    space: Workspace
    targets: Tensor
    token_weight: Tensor | None
    scale: float | Tensor
    details: bool
    dtype: torch.dtype  # of the products
    differentiate: bool
    tied: bool  # the embedding of the cosine part is the head's weight


def fused_objective(
    settings: Settings,
    space: Workspace,
    hidden: Tensor,
    targets: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None,
    embedding: Tensor | None,
    token_weight: Tensor | None,
    scale: float | Tensor,
    details: bool,
) -> TokenSums:
    """Compute cross-entropy, mixed with a cosine distance if `settings.mix`; arguments as of `Objective`.

    The logits of a chunk of rows are computed once, tile by tile. Their exponentials are kept, in the dtype
    of the products, until they have been multiplied into the gradients of hidden states and weight: three
    products and one exponential a logit. With gradients off nothing is kept. Products run in the dtype of
    autocast where it is on; the softmax and all sums in float32, or float64 for float64 inputs.

    Raises IndexError for a target outside the vocabulary (on a CPU).
    """
    assert hidden.ndim == 2, hidden.shape
    assert targets.shape == hidden.shape[:1], (targets.shape, hidden.shape)
    assert weight.shape[1] == hidden.shape[1], (weight.shape, hidden.shape)
    assert settings.mix is None or embedding is not None, "the cosine part needs the input embedding"
    tied = settings.mix is not None and embedding is weight
    call = _Call(
        settings=settings,
        space=space,
        targets=targets,
        token_weight=token_weight,
        scale=scale.detach() if isinstance(scale, Tensor) else scale,
        details=details,
        dtype=_product_dtype(hidden, weight),
        differentiate=torch.is_grad_enabled(),
        tied=tied,
    )
    table = None if tied or settings.mix is None else embedding
    loss, sums, token_nats = _Fused.apply(hidden, weight, bias, table, call)
    nats, entropy, correct, top5, confidence, tokens, cosine = sums.unbind()
    return TokenSums(
        loss=loss,
        nats=nats,
        entropy=entropy,
        correct=correct,
        correct_top5=top5,
        confidence=confidence,
        tokens=tokens,
        token_nats=token_nats,
        cosine=None if settings.mix is None else cosine,
    )


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    device = hidden.device.type
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return dtype


class _Fused(torch.autograd.Function):
    """The gradients are made in forward, where the exponentials are; backward hands them over."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, embedding: Tensor | None, call: _Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        needed = tuple(call.differentiate and need for need in ctx.needs_input_grad[:4])
        # the dtypes below are chosen one by one; autocast would lower some of the exact ones
        with torch.autocast(hidden.device.type, enabled=False):
            loss, sums, token_nats, gradients = _compute((hidden, weight, bias, embedding), call, needed)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(sums, token_nats)
        return loss, sums, token_nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        if gradients is None:
            raise RuntimeError("backward a second time; the first needs retain_graph=True")
        kept = torch._C._autograd._get_current_graph_task_keep_graph()
        if not kept:  # autograd adds what else a tied weight gets to the only reference, to a copy otherwise
            ctx.gradients = None
        # one is what loss.backward() sends; on a GPU, looking would mean waiting for it
        if grad_loss.device.type != "cpu" or grad_loss.item() != 1.0:
            scaled = torch.mul if kept else Tensor.mul_
            gradients = tuple(None if part is None else scaled(part, grad_loss) for part in gradients)
        return *gradients, None


def _compute(
    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None], call: _Call, needed: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Return the loss, the other sums stacked as TokenSums has them, each token's nats, and the gradients."""
    hidden, weight, bias, _ = inputs
    exact = torch.promote_types(call.dtype, torch.float32)
    head = Head(
        weight=weight,
        bias=None if bias is None else bias.to(exact),
        softcap=call.settings.softcap,
        dtype=call.dtype,
        exact=exact,
        space=call.space,
    )
    gradients = Gradients(needed, inputs, head, call.tied)
    # in float16 a scale of 1e-4 would push most gradients out of range: there it is applied at the end
    early, late = (1.0, call.scale) if call.dtype == torch.float16 else (call.scale, 1.0)
    valid = call.targets != IGNORE_INDEX
    targets = call.targets.where(valid, 0)
    row_weight = valid.to(exact)
    if call.token_weight is not None:
        row_weight = call.token_weight.to(exact).where(valid, 0)
    loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
    sums = torch.zeros(7, dtype=torch.float64, device=hidden.device)
    token_nats = torch.zeros(len(hidden), dtype=exact, device=hidden.device)
    for rows, columns, keep in _chunks(call, hidden, head, gradients.any):
        softmax = softmax_rows(
            head,
            hidden[rows].to(call.dtype),
            targets[rows],
            keep=keep,
            sloped=call.settings.mix is None,
            pull=needed[0],
            columns=columns,
            rank=call.details,
            fused=call.settings.fused,
        )
        objective, cosine = softmax.nats, None
        token_nats[rows] = objective.where(valid[rows], 0)
        if keep is not None:
            exact_hidden, weights = hidden[rows].to(exact), row_weight[rows] * early
            chunk = Chunk(rows, exact_hidden, targets[rows], weights, softmax, keep)
            objective, cosine = _differentiate(inputs, call, head, chunk, columns, gradients)
        loss += (objective * row_weight[rows]).where(valid[rows], 0).sum(dtype=torch.float64)
        sums += softmax.sums(valid[rows], cosine)
    return (loss * call.scale).to(exact), sums, token_nats, gradients.finish(late)


def _chunks(
    call: _Call, hidden: Tensor, head: Head, differentiate: bool
) -> Iterator[tuple[slice, int, Tensor | None]]:
    """Yield each chunk's rows, the columns of its tiles, and memory for its exponentials if needed."""
    tiling = call.settings.tiling or choose_tiling(len(hidden), len(head.weight), call.dtype, hidden.device)
    for start in range(0, len(hidden), tiling.rows):
        rows = slice(start, min(start + tiling.rows, len(hidden)))
        keep = None
        if differentiate or call.settings.mix is not None:
            keep = head.like_keep("keep", rows.stop - start)
        yield rows, tiling.columns, keep


def _differentiate(
    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    call: _Call,
    head: Head,
    chunk: Chunk,
    columns: int,
    gradients: Gradients,
) -> tuple[Tensor, Tensor | None]:
    """Add up a chunk's gradients where needed; return its objective and its cosine distance, each (R,)."""
    _, weight, _, embedding = inputs
    mix, softmax = call.settings.mix, chunk.softmax
    if mix is None:
        gradients.add_cross_entropy(chunk, None if head.softcap is None else head.slope(softmax.target))
        return softmax.nats, None
    table = weight if embedding is None else embedding
    if mix.chooses(len(table)):
        rows_table = table.detach().to(head.exact)
    else:
        rows_table = head.lowered if call.tied else call.space.cast("embedding", table, call.dtype)
    part = CosineRows(mix, chunk, head, rows_table, columns)
    cosine = part.distance(table.index_select(0, chunk.targets).to(head.exact))
    if gradients.any:
        part.differentiate(gradients)
        gradients.add(chunk, torch.ones_like(chunk.weight), torch.zeros_like(chunk.weight))
    return mix.alpha * cosine + (1 - mix.alpha) * softmax.nats, cosine
