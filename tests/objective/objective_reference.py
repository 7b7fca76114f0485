"""The formulas, written out plainly on materialised logits, and small batches to try them on."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lmx.objective import IGNORE_INDEX, CosineMix, TokenSums


@dataclass
class Batch:
    """Inputs of an objective; all float tensors are leaves that require a gradient."""

    hidden: Tensor
    targets: Tensor
    weight: Tensor
    bias: Tensor | None = None
    embedding: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Batch:
        """Return a copy in another dtype; an embedding that is the weight stays so."""
        parts = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is not None and value.is_floating_point():
                value = value.detach().to(dtype, copy=True).requires_grad_()
            parts[spec.name] = value
        if self.embedding is self.weight:
            parts["embedding"] = parts["weight"]
        return Batch(**parts)

    @property
    def head(self) -> dict[str, Tensor | None]:
        return {"weight": self.weight, "bias": self.bias, "embedding": self.embedding}

    @property
    def gradients(self) -> list[Tensor]:
        leaves = (self.hidden, self.weight, self.bias, self.embedding)
        return [leaf.grad for leaf in leaves if leaf is not None and leaf.grad is not None]


def make_batch(
    tokens: int = 50,
    width: int = 16,
    vocabulary: int = 101,
    *,
    bias: bool = False,
    embedding: str | None = None,
    ignored: bool = True,
    spread: float = 1.0,
    seed: int = 0,
) -> Batch:
    """Return a random float64 batch; `embedding` is None, "own" or "tied"."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return (torch.randn(*shape, dtype=torch.float64, generator=draw) * spread).requires_grad_()

    targets = torch.randint(0, vocabulary, (tokens,), generator=draw)
    if ignored:
        targets[::5] = IGNORE_INDEX
    weight = normal(vocabulary, width)
    table = {None: None, "own": normal(vocabulary, width), "tied": weight}[embedding]
    return Batch(normal(tokens, width), targets, weight, normal(vocabulary) if bias else None, table)


def plain(
    batch: Batch,
    softcap: float | None = None,
    mix: CosineMix | None = None,
    token_weight: Tensor | None = None,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """Return every sum of TokenSums by the formula."""
    logits = batch.hidden @ batch.weight.t()
    if batch.bias is not None:
        logits = logits + batch.bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    valid = batch.targets != IGNORE_INDEX
    logits, targets = logits[valid], batch.targets[valid]
    log_p = logits.log_softmax(-1)
    nats = -log_p.gather(1, targets[:, None])[:, 0]
    rank = (logits > logits.gather(1, targets[:, None])).sum(-1)
    sums = {
        "nats": nats.sum(),
        "entropy": -(log_p.exp() * log_p).sum(),
        "correct": (rank == 0).sum(),
        "correct_top5": (rank < 5).sum(),
        "confidence": log_p.exp().amax(-1).sum() if len(targets) else torch.zeros(()),
        "tokens": valid.sum(),
    }
    objective = nats
    if mix is not None:
        cosine = cosine_distance(logits, targets, batch.embedding, mix)
        objective = mix.alpha * cosine + (1 - mix.alpha) * nats
        sums["cosine"] = cosine.sum()
    weights = torch.ones_like(nats) if token_weight is None else token_weight[valid]
    sums["loss"] = (objective * weights).sum() * scale
    return sums


def cosine_distance(logits: Tensor, targets: Tensor, embedding: Tensor | None, mix: CosineMix) -> Tensor:
    """Return 1 − cos(Σ pᵢ·E[i], E[y]) of each row, as EXPERIMENTS.md C has it."""
    assert embedding is not None
    p = (logits / mix.temperature).softmax(-1)
    values, indices = p.topk(logits.shape[1] if mix.top_k is None else mix.top_k)
    expected = (values[..., None] * embedding[indices]).sum(1)
    return 1 - torch.nn.functional.cosine_similarity(expected, embedding[targets], dim=-1)


def sums_of(result: TokenSums) -> dict[str, Tensor]:
    """Return the sums that are there, by name."""
    named = {spec.name: getattr(result, spec.name) for spec in fields(result) if spec.name != "token_nats"}
    return {name: value for name, value in named.items() if value is not None}


def assert_sums(result: TokenSums, expected: dict[str, Tensor], rtol: float) -> None:
    """Compare all sums, each relative to the larger of itself and 1."""
    got = sums_of(result)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name].detach().double(),
            value.detach().double(),
            rtol=rtol,
            atol=rtol,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def assert_gradients(got: Batch, expected: Batch, rtol: float) -> None:
    """Compare all gradients, relative to the largest entry of each."""
    assert len(got.gradients) == len(expected.gradients) > 0
    for mine, theirs in zip(got.gradients, expected.gradients, strict=True):
        assert mine.shape == theirs.shape
        error = (mine.double() - theirs).abs().max() / theirs.abs().max().clamp_min(1e-300)
        assert error <= rtol, f"{tuple(mine.shape)}: {error:.2e} > {rtol:.0e}"
