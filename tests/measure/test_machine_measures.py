"""Peaks of known devices, and the estimate of memory beside what autograd really saves."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from lmx.config import ModelConfig, OptimizerConfig
from lmx.config.compose import compose
from lmx.measure import memory_estimate, parameter_counts, peak_flops


@pytest.mark.parametrize(
    ("name", "dtype", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA A100-PCIE-40GB", "fp32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA H100 NVL", "fp16", 835.5),
        ("NVIDIA H200", "bf16", 989.5),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40S", "bf16", 362.0),
        ("NVIDIA A10", "bf16", 125.0),
        ("Tesla T4", "fp16", 65.0),
        ("Tesla T4", "bf16", None),
        ("Tesla V100-SXM2-16GB", "fp16", 125.0),
        ("Tesla V100-PCIE-32GB", "fp16", 112.0),
        ("NVIDIA GeForce RTX 3090", "bf16", 71.0),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA GeForce RTX 3090 Ti", "bf16", None),
        ("NVIDIA GeForce RTX 4090 D", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
        ("NVIDIA L40", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("NVIDIA GH200 480GB", "bf16", None),
        ("NVIDIA A100-SXM4-80GB", "fp64", None),
        ("AMD EPYC", "fp32", None),
    ],
)
def test_peaks(name: str, dtype: str, tflops: float | None) -> None:
    assert peak_flops(name, dtype) == (None if tflops is None else pytest.approx(tflops * 1e12))


def model(**fields: Any) -> ModelConfig:
    shape = {"vocab_size": 512, "context_length": 128, "hidden_size": 64, "num_layers": 4, "num_heads": 4}
    return ModelConfig(name="test", intermediate_size=160, **(shape | fields))


ADAMW = OptimizerConfig(name="test", lr=1e-3, update={"_target_": "torch.optim.AdamW"})


@pytest.mark.parametrize("native", [False, True], ids=["torch", "native"])
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "half"])
@pytest.mark.parametrize(
    "fields", [{}, {"activation": "gelu_tanh", "norm": "layernorm"}, {"num_kv_heads": 2}, {"num_heads": 2}]
)
def test_activations_are_near_what_autograd_saves(fields: dict[str, Any], half: bool, native: bool) -> None:
    from lmx.model import Decoder
    from lmx.native import left_out

    torch.manual_seed(0)
    config, rows, length = model(**{"context_length": 256, **fields}), 8, 256
    decoder = Decoder(config)
    weights = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    torch_alone = nullcontext() if native else left_out()
    with hooks, torch_alone, torch.autocast("cpu", torch.bfloat16, enabled=half):
        decoder(torch.zeros(rows, length, dtype=torch.long))
    measured = sum(storage.nbytes() for storage in saved.values())
    estimate = memory_estimate(
        config, ADAMW, rows * length, length, half=half, scores_kept=True, native=native
    )
    assert estimate.activations == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd", "lion"])
def test_optimizer_state_is_what_the_optimizer_keeps(name: str) -> None:
    from lmx.model import Decoder
    from lmx.optim import build_optimizer

    optimizer_config = compose([f"optimizer={name}"]).optimizer
    decoder = Decoder(model())
    optimizer = build_optimizer(decoder, optimizer_config)
    decoder.logits(decoder(torch.zeros(1, 4, dtype=torch.long))).sum().backward()
    optimizer.step()
    kept = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim
    )
    estimate = memory_estimate(model(), optimizer_config, 64, 64, half=False, scores_kept=False, native=False)
    assert estimate.optimizer_state == kept
    assert estimate.weights == estimate.gradients == 4 * parameter_counts(model()).total


def test_the_loss_takes_about_what_its_objective_holds() -> None:
    from lmx.objective import FusedObjective, Settings

    hidden, weight = (torch.randn(size, 64).requires_grad_() for size in (256, 8192))
    objective = FusedObjective(Settings())
    objective(hidden, torch.zeros(256, dtype=torch.long), weight=weight).loss.backward()
    held = [*objective._space._buffers.values(), hidden.grad, weight.grad]
    measured = sum(tensor.nbytes for tensor in held if tensor is not None)
    estimate = memory_estimate(
        model(vocab_size=8192), ADAMW, 256, 128, half=False, scores_kept=True, native=False
    )
    assert estimate.loss == pytest.approx(measured, rel=0.25)


def test_checkpointing_keeps_one_block() -> None:
    whole = memory_estimate(
        model(num_layers=8), ADAMW, 4096, 128, half=False, scores_kept=False, native=False
    )
    less = memory_estimate(
        model(num_layers=8, activation_checkpointing=True),
        ADAMW,
        4096,
        128,
        half=False,
        scores_kept=False,
        native=False,
    )
    one = memory_estimate(model(num_layers=1), ADAMW, 4096, 128, half=False, scores_kept=False, native=False)
    assert less.activations == one.activations + 8 * 4096 * 64 * 4, "and the input of each"
    assert less.activations < whole.activations / 4
    assert less.total - less.activations == whole.total - whole.activations


def test_measures_import_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, lmx.measure; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
