"""Is a decoder what its configuration says? Order, causality, gradients and the first loss, in one look."""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmx import native
from lmx.config import ModelConfig
from lmx.model.block import Block
from lmx.model.decoder import Decoder

LENGTH = 16  # tokens of the probe: more would cost time and show nothing new
LEAST_CHANGE = 1e-10  # of what the last position attends to, relative: float64 rounds at 1e-16
LOSS_TOLERANCE = 0.05  # of ln V
LEAST_ERROR = 1e-5  # of a block in float32, relative: better ones are taken to be as large
NATIVE_TOLERANCE = 100.0  # sound kernels stay below 10, also in deep models; a fault is 1e3 and more
QUERY_OR_KEY = re.compile(r"attention\.(query|key)")


@dataclass(frozen=True)
class SelfTest:
    """What the probes saw."""

    claims_positions: bool  # by the configuration, and where a position sees two others at least
    sees_order: bool  # the order of earlier tokens changes what the last position attends to, in every block
    sees_future: bool  # a later token changes an earlier position
    dead_parameters: list[str]  # names of those whose gradient is zero
    initial_loss: float  # nats per token, on random tokens
    log_vocab: float  # ln V: the loss of equal probabilities
    native_error: float  # of the worst block in C++, as a multiple of plain torch's in float32
    seconds: float

    @property
    def plain_loss(self) -> bool:
        """Whether the first loss is within 5 % of ln V."""
        return abs(self.initial_loss - self.log_vocab) <= LOSS_TOLERANCE * self.log_vocab

    def contradictions(self, config: ModelConfig) -> Iterator[str]:
        """Yield one line for each thing seen that cannot be with `config`."""
        if self.claims_positions != self.sees_order:
            does = "sees" if self.sees_order else "does not see"
            yield f"model.position={config.position}, but attention {does} the order of its input"
        if self.sees_future:
            yield "a position sees a later one"
        if not self.native_error < NATIVE_TOLERANCE:  # nor where it is NaN
            yield f"layers in C++ are {self.native_error:.1e} times as inexact as plain torch"
        alone = _visible(config) == 1  # the softmax of one score is 1, whatever query and key are
        dead = [name for name in self.dead_parameters if not (alone and QUERY_OR_KEY.search(name))]
        if dead:
            more = f" and {len(dead) - 3} more" if len(dead) > 3 else ""
            yield f"no gradient reaches {', '.join(dead[:3])}{more}"


def self_test(model: Decoder) -> SelfTest:
    """Probe a decoder; its weights, gradients and mode and all random states stay as they are.

    Order is probed in each attention alone, on embedded tokens: a decoder without positions sees order too,
    through what the causal mask let the layers below see, but one attention of it sees a set.
    """
    begun = time.perf_counter()
    assert model.config.vocab_size is not None
    claims = _claims_positions(model.config)
    with _undisturbed(model):
        seen = _forward(model)
        order = _sees_order(model, seen)
        future = _sees_future(seen)
        loss = F.cross_entropy(model.logits(seen.hidden[0]).float(), seen.targets)
        error = _native_error(model, seen)
        dead = _without_gradient(model, seen, loss)
    return SelfTest(
        claims_positions=claims,
        sees_order=bool(order) and (all(order) if claims else any(order)),
        sees_future=future,
        dead_parameters=dead,
        initial_loss=loss.item(),
        log_vocab=math.log(model.config.vocab_size),
        native_error=error,
        seconds=time.perf_counter() - begun,
    )


@dataclass
class _Pass:
    """What one forward pass of two rows showed; in the second, two tokens have changed places."""

    targets: Tensor  # (T,)
    embedded: Tensor  # (2, T, C), positions included
    blocks: list[tuple[Any, ...]]  # what each was given
    attention: list[tuple[Any, ...]]  # of each block: what its attention was given beside its input
    hidden: Tensor  # (2, T, C)


def _visible(config: ModelConfig) -> int:
    """Return how many tokens the last position of a full context sees, itself included."""
    assert config.context_length is not None
    return min(config.context_length, config.sliding_window or config.context_length)


def _claims_positions(config: ModelConfig) -> bool:
    return config.position != "none" and config.num_layers > 0 and _visible(config) > 2


def _forward(model: Decoder) -> _Pass:
    vocab_size, length = model.embedding.num_embeddings, min(LENGTH, model.context_length)
    device = model.embedding.weight.device
    # from all over the vocabulary, whose ends may hold unused tokens that are all alike
    row = torch.arange(1, length + 1, device=device) * vocab_size // (length + 1)
    if length > 2:
        row[-2] = (row[-3] + vocab_size // 2) % vocab_size  # another one
    rows = row.repeat(2, 1)
    rows[1, -3:-1] = rows[1, -3:-1].flip(0)
    embedded: list[Tensor] = []
    blocks: list[tuple[Any, ...]] = []
    given: list[tuple[Any, ...]] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        embedded.append(output.requires_grad_())

    handles = [model.embedding_dropout.register_forward_hook(keep)]
    for block in model.blocks:
        assert isinstance(block, Block)
        handles += [block.register_forward_pre_hook(lambda _, args: blocks.append(args))]
        handles += [block.attention.register_forward_pre_hook(lambda _, args: given.append(args[1:]))]
    try:
        hidden = model(rows)
    finally:
        for handle in handles:
            handle.remove()
    targets = torch.randint(vocab_size, (length,), generator=torch.Generator().manual_seed(0))
    return _Pass(targets.to(device), embedded[0], blocks, given, hidden)


@torch.no_grad()
def _sees_order(model: Decoder, seen: _Pass) -> list[bool]:
    """Say of each block's attention whether the order of two earlier tokens changes its last position.

    In float64, so that the slightest effect of a position stands far above the rounding of a sum.
    """
    if _visible(model.config) < 3:  # it sees one other token at most: there is no order
        return [False for _ in model.blocks]
    x = F.rms_norm(seen.embedded.double(), seen.embedded.shape[-1:])
    sees = []
    for block, given in zip(model.blocks, seen.attention, strict=True):
        assert isinstance(block, Block)
        first, second = copy.deepcopy(block.attention).double()(x, *given)[:, -1]
        change = (first - second).abs().max() / first.abs().max()
        sees.append(bool(change > LEAST_CHANGE))
    return sees


def _sees_future(seen: _Pass) -> bool:
    """Say whether the middle position depends on a later one: then a gradient goes there."""
    middle = seen.hidden.shape[1] // 2
    total = _uneven_sum(seen.hidden[0, middle])
    (gradient,) = torch.autograd.grad(total, seen.embedded, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient[0, middle + 1 :].any())


def _native_error(model: Decoder, seen: _Pass) -> float:
    """Compare each block in C++, and the gradient it sends back, with plain torch, in float32 and float64.

    Block by block, as a deep model multiplies the rounding of its first blocks.
    """
    if not native.available() or seen.embedded.device.type != "cpu":
        return 0.0
    worst = torch.zeros(())
    for block, given in zip(model.blocks, seen.blocks, strict=True):
        ours = _through(block, given)
        with native.left_out():
            theirs = _through(block, given)
            exact = _through(copy.deepcopy(block).double(), given, torch.float64)
        errors = [_largest_error(side, exact) for side in (ours, theirs)]
        worst = torch.maximum(worst, errors[0] / errors[1].clamp(min=LEAST_ERROR))  # NaN stays NaN
    return float(worst)


def _largest_error(got: Sequence[Tensor], exact: Sequence[Tensor]) -> Tensor:
    """Return the largest error of any tensor, relative to its largest number; NaN where one is."""
    pairs = zip(got, exact, strict=True)
    return torch.stack([(a - b).abs().max() / b.abs().max().clamp(min=1e-30) for a, b in pairs]).max()


def _through(
    block: nn.Module, given: tuple[Any, ...], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Return what a block makes of what it was given, and the gradient of that at its input."""
    x = given[0].detach().to(dtype or given[0].dtype).requires_grad_()
    y = block(x, *given[1:])
    if not y.requires_grad:  # which the dead parameters will tell
        return y.detach(), torch.zeros_like(x)
    return y.detach(), torch.autograd.grad(_uneven_sum(y), x)[0]


def _uneven_sum(x: Tensor) -> Tensor:
    """Return a sum to which each number of the last dimension adds in its own measure."""
    return (x @ torch.linspace(-1, 2, x.shape[-1]).to(x)).sum()


def _without_gradient(model: Decoder, seen: _Pass, loss: Tensor) -> list[str]:
    """Return the names of the parameters whose gradient is zero; each is looked at and let go at once.

    The two matrices of the vocabulary are judged by the gradients of what goes in and what comes out: their
    own would take most of the time. A key's bias is left out where softmax does not see it: it adds the
    same to all scores of a query, and its gradient is rounding alone.
    """
    config = model.config
    unseen = config.position != "rope" and not config.qk_norm and config.attention_softcap is None
    alive: set[str] = set()

    def look(name: str, gradient: Tensor) -> None:
        if gradient.any():
            alive.add(name)

    def look_and_drop(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        look(name, parameter.grad)
        parameter.grad = None

    handles = [
        parameter.register_post_accumulate_grad_hook(partial(look_and_drop, name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    handles += [seen.embedded.register_hook(partial(look, "embedding.weight"))]
    handles += [seen.hidden.register_hook(partial(look, "head.weight"))]
    try:
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    return [
        name
        for name, _ in model.named_parameters()
        if name not in alive and not (unseen and name.endswith("attention.key.bias"))
    ]


@contextmanager
def _undisturbed(model: Decoder) -> Iterator[None]:
    """Hold the model in eval mode, its gradients put aside, the matrices of the vocabulary without one."""
    training = model.training
    kept = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    model.zero_grad()
    model.eval()
    for matrix in (model.embedding.weight, model.head_weight):
        matrix.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        model.train(training)
        for parameter, trained, gradient in kept:
            parameter.requires_grad_(trained)
            parameter.grad = gradient
