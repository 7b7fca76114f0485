"""The autograd function: gradcheck, loss scaling, reuse, tied weights, and what it never allocates."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from objective_reference import Batch, assert_gradients, assert_sums, make_batch, plain
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmx.native import left_out
from lmx.objective import IGNORE_INDEX, CosineMix, FusedObjective, Settings, Tiling


class Watch(TorchDispatchMode):
    """Notes the name of every operation and the sizes of what it returns."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.calls.append((func._schema.name, max(sizes, default=0)))
        return result

    def largest(self) -> int:
        return max(size for _, size in self.calls)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(softcap, weighted):
    batch = make_batch(9, 4, 11, bias=True, spread=0.8)
    token_weight = (
        torch.rand(9, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) if weighted else None
    )
    objective = FusedObjective(Settings(softcap=softcap, tiling=Tiling(4, 5)))

    def loss(hidden, weight, bias):
        options = {"token_weight": token_weight, "scale": 0.3}
        return objective(hidden, batch.targets, weight=weight, bias=bias, **options).loss

    assert torch.autograd.gradcheck(loss, (batch.hidden, batch.weight, batch.bias))


def test_no_second_derivative():
    batch = make_batch(4, 3, 7)
    loss = FusedObjective(Settings())(batch.hidden, batch.targets, **batch.head).loss
    (gradient,) = torch.autograd.grad(loss.square(), batch.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_loss_scale_multiplies_the_gradients():
    """What GradScaler does; and the graph may be walked again, each time from the same start."""
    reference = make_batch(bias=True)
    plain(reference)["loss"].backward()
    batch = reference.to(torch.float64)
    loss = FusedObjective(Settings())(batch.hidden, batch.targets, **batch.head).loss
    (loss * 1024).backward(retain_graph=True)
    (loss * -1023).backward(retain_graph=True)
    assert_gradients(batch, reference, 1e-11)
    loss.backward()
    for mine, theirs in zip(batch.gradients, reference.gradients, strict=True):
        torch.testing.assert_close(mine, 2 * theirs, rtol=1e-9, atol=1e-9)


def test_twice_in_one_graph():
    """Two calls share buffers, but not gradients."""
    reference, other = make_batch(seed=1), make_batch(seed=2)
    (
        plain(reference)["loss"] + 3 * plain(Batch(other.hidden, other.targets, reference.weight))["loss"]
    ).backward()
    batch, second = reference.to(torch.float64), other.to(torch.float64)
    objective = FusedObjective(Settings(tiling=Tiling(11, 17)))
    first = objective(batch.hidden, batch.targets, weight=batch.weight).loss
    third = objective(second.hidden, second.targets, weight=batch.weight).loss
    (first + 3 * third).backward()
    assert_gradients(batch, reference, 1e-12)
    torch.testing.assert_close(second.hidden.grad, other.hidden.grad)


@pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=3)), ids=str)
def test_only_the_gradients_that_are_needed(needed):
    reference = make_batch(bias=True)
    batch = make_batch(bias=True)
    for part in (reference, batch):
        for leaf, need in zip((part.hidden, part.weight, part.bias), needed, strict=True):
            leaf.requires_grad_(need)
    expected = plain(reference)
    result = FusedObjective(Settings(tiling=Tiling(20, 30)))(batch.hidden, batch.targets, **batch.head)
    assert_sums(result, expected, 1e-12)
    assert result.loss.requires_grad == any(needed)
    if any(needed):
        expected["loss"].backward()
        result.loss.backward()
        assert_gradients(batch, reference, 1e-12)


class TinyLanguageModel(nn.Module):
    def __init__(self, tied: bool):
        super().__init__()
        self.embedding = nn.Embedding(37, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 37, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.body(self.embedding(tokens)).tanh()


@pytest.mark.parametrize("tied", [False, True])
def test_through_a_model(tied):
    torch.manual_seed(0)
    model = TinyLanguageModel(tied).double()
    twin = copy.deepcopy(model)
    tokens, targets = torch.randint(0, 37, (2, 40))
    hidden = model(tokens)
    FusedObjective(Settings())(hidden, targets, weight=model.head.weight, scale=1 / 40).loss.backward()
    F.cross_entropy(twin.head(twin(tokens)), targets).backward()
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("mix", [None, CosineMix(0.5, 0.7, 9)], ids=str)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_never_all_logits(mix, train, autocast):
    """With 2,100 tokens, 2,100 words and chunks of 1,024 rows at most: nothing above one chunk."""
    batch = make_batch(2100, 4, 2100, embedding="tied").to(torch.float32)
    objective = FusedObjective(Settings(mix=mix))
    context = torch.enable_grad() if train else torch.no_grad()
    with Watch() as watch, context, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = objective(batch.hidden, batch.targets, **batch.head).loss
        if train:
            loss.backward()
    kept = train or mix is not None
    assert watch.largest() <= 1024 * (2100 if kept else 1024)


def test_one_product_a_tile_each_way():
    """V in one tile or many, each logit is computed once; the gradients take two products a chunk.

    In plain torch: no Watch sees the products of C++.
    """
    batch = make_batch(64, 4, 100).to(torch.float32)
    for columns, products in ((100, 3), (25, 4 + 2)):
        with Watch() as watch, left_out():
            objective = FusedObjective(Settings(tiling=Tiling(64, columns)))
            objective(batch.hidden, batch.targets, **batch.head).loss.backward()
        assert sum(name in ("aten::mm", "aten::addmm_") for name, _ in watch.calls) == products


def test_backward_copies_nothing():
    """The head's gradient, as large as the head, becomes `.grad` itself."""
    batch = make_batch(8, 16, 500).to(torch.float32)
    loss = FusedObjective(Settings())(batch.hidden, batch.targets, **batch.head).loss
    with Watch() as watch:
        loss.backward()
    large = {name for name, size in watch.calls if size >= batch.weight.numel()}
    assert large <= {"aten::detach"}


def test_nothing_waits_for_a_device():
    """In one tile, as on a GPU, no operation of the forward pass brings a value to Python."""
    batch = make_batch(64, 4, 100, bias=True, embedding="own").to(torch.float32)
    scale = torch.tensor(0.1)
    for mix in (None, CosineMix(0.5, 0.7, 9)):
        objective = FusedObjective(Settings(softcap=9.0, mix=mix, tiling=Tiling(32, 100)))
        with Watch() as watch, left_out():  # C++ is for a CPU
            objective(batch.hidden, batch.targets, scale=scale, **batch.head)
        waits = {
            "aten::_local_scalar_dense",
            "aten::equal",
            "aten::nonzero",
            "aten::item",
            "aten::masked_select",
        }
        assert not waits & {name for name, _ in watch.calls}


@pytest.mark.parametrize("certainty", [0.0, 6.0])
@pytest.mark.parametrize("spread", [0.05, 0.4])
@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_is_no_worse_than_plain(certainty, spread, native):
    """Against float64, over 64 batches: the errors of the fused path and of autocast on plain logits.

    In C++ no logit is rounded: the loss is more exact by a fifth at least, gradients by a half.
    """
    objective = FusedObjective(Settings(tiling=Tiling(128, 100)))

    def run(batch: Batch, kind: str) -> list[torch.Tensor]:
        batch = batch.to(torch.float64 if kind == "exact" else torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind != "exact"):
            if kind == "fused":
                with nullcontext() if native else left_out():
                    loss = objective(batch.hidden, batch.targets, scale=1 / 160, **batch.head).loss
            else:
                logits = batch.hidden @ batch.weight.t()
                loss = (
                    F.cross_entropy(logits, batch.targets, ignore_index=IGNORE_INDEX, reduction="sum") / 160
                )
        loss.backward()
        return [loss.detach().double(), *(gradient.double() for gradient in batch.gradients)]

    errors = torch.zeros(2, 3, dtype=torch.float64)
    for seed in range(64):
        batch = make_batch(200, 32, 301, seed=seed, spread=spread)
        with torch.no_grad():
            batch.hidden.div_(spread).add_(batch.weight[batch.targets.clamp_min(0)], alpha=certainty / spread)
        exact = run(batch, "exact")
        for row, kind in enumerate(("fused", "plain")):
            parts = zip(run(batch, kind), exact, strict=True)
            errors[row] += torch.stack([(mine - theirs).square().sum() for mine, theirs in parts])
    ratio = (errors[0] / errors[1]).sqrt()
    assert (ratio <= (torch.tensor([0.8, 0.5, 0.5]) if native else 1.01)).all(), ratio


def test_float16_keeps_small_gradients():
    """Neither a scale of 1e-6, as for a million tokens, nor logits that rise by 30 leave float16's range."""
    reference = make_batch(spread=0.3, bias=True)
    with torch.no_grad():
        reference.bias.add_(torch.linspace(0, 30, 101))
    plain(reference, scale=1e-6)["loss"].backward()
    batch = reference.to(torch.float32)
    with torch.autocast("cpu", torch.float16):
        loss = FusedObjective(Settings(tiling=Tiling(20, 30)))(
            batch.hidden, batch.targets, scale=1e-6, **batch.head
        ).loss
    (loss * 2.0**16).backward()
    for gradient in batch.gradients:
        gradient.div_(2.0**16)
    assert_gradients(batch, reference, 5e-3)


def test_low_precision_weights():
    """Hidden states and head in bfloat16 (precision bf16-true): gradients come back in bfloat16."""
    reference = make_batch(spread=0.3).to(torch.bfloat16).to(torch.float64)
    expected = plain(reference)
    expected["loss"].backward()
    batch = reference.to(torch.bfloat16)
    result = FusedObjective(Settings())(batch.hidden, batch.targets, **batch.head)
    result.loss.backward()
    assert result.loss.dtype == torch.float32
    assert {gradient.dtype for gradient in batch.gradients} == {torch.bfloat16}
    assert_gradients(batch, reference, 2e-2)


def test_copies_and_threads_have_their_own_memory():
    batch = make_batch(200, 8, 501).to(torch.float32)
    objective = FusedObjective(Settings(tiling=Tiling(64, 100)))

    def loss(run: FusedObjective) -> float:
        return run(batch.hidden, batch.targets, **batch.head).loss.item()

    expected = loss(objective)
    assert loss(copy.deepcopy(objective)) == loss(pickle.loads(pickle.dumps(objective))) == expected
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(loss(objective) for _ in range(20))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 80


def test_memory_of_a_gradient_serves_again() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, targets = torch.randn(20, 8, generator=draw), torch.randint(50, (20,), generator=draw)
    weight = torch.randn(50, 8, generator=draw).requires_grad_()
    objective = FusedObjective(Settings())

    def gradient() -> torch.Tensor:
        weight.grad = None
        objective(hidden, targets, weight=weight).loss.backward()
        assert weight.grad is not None
        return weight.grad

    first = gradient()
    expected, place = first.clone(), first.data_ptr()
    second = gradient()
    assert second.data_ptr() != place, "the first is still held"
    torch.testing.assert_close(second, expected, rtol=0, atol=0)
    objective.reuse(first)
    third = gradient()
    assert third.data_ptr() == place
    torch.testing.assert_close(third, expected, rtol=0, atol=0)
    # a bucket of DDP is not ours to keep
    bucket = torch.zeros(2, 50, 8)
    objective.reuse(bucket[0])
    objective.reuse(None)
    assert gradient().data_ptr() not in (bucket.data_ptr(), third.data_ptr())
