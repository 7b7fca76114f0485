"""The measuring callbacks against closed forms, on updates made by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lmx.measure import flops_per_token
from lmx.objective.sums import TokenSums
from lmx.training.callbacks import (
    EarlyStopping,
    GradientNorm,
    PeakMemory,
    PredictiveIntegrity,
    Throughput,
)
from lmx.training.callbacks.gradient_norm import layer_group
from lmx.training.window import SUMS, Steps, Stopwatch, Window, step_sums

TOKENS = np.array([100.0, 50.0])
# entropies of 2 and 3 nats per token, norms of 5 and 13
STEPS = Steps(
    {name: np.array([1.0, 1.0]) * TOKENS for name in SUMS} | {"entropy": np.array([200.0, 150.0])},
    TOKENS,
    np.array([[3.0, 4.0, 0.0], [5.0, 0.0, 12.0]]),
    np.zeros(2),
)


def module(**more: Any) -> Any:
    return SimpleNamespace(
        parameter_names=["embedding.weight", "blocks.0.attention.q.weight", "blocks.0.norm.weight"], **more
    )


def test_predictive_integrity() -> None:
    values = PredictiveIntegrity(alpha=0.5, gamma=0.25).measure(STEPS, module(), 1.0)
    exponents = [0.5 * 2 + 0.25 * 5, 0.5 * 3 + 0.25 * 13]
    assert values["train/pi"] == pytest.approx(sum(math.exp(-e) for e in exponents) / 2, rel=1e-12)
    assert values["train/log_pi"] == pytest.approx(-sum(exponents) / 2, rel=1e-12)
    shares = [0.25 * 5 / exponents[0], 0.25 * 13 / exponents[1]]
    assert values["train/effective_gamma"] == pytest.approx(sum(shares) / 2, rel=1e-12)


def test_gradient_norms() -> None:
    values = GradientNorm().measure(STEPS, module(), 1.0)
    assert values == pytest.approx(
        {
            "train/grad_norm": (5 + 13) / 2,
            "train/grad_norm/embedding": (3 + 5) / 2,
            "train/grad_norm/block_00": (4 + 12) / 2,
        }
    )
    assert GradientNorm(by_group=False).measure(STEPS, module(), 1.0) == {"train/grad_norm": 9.0}
    assert layer_group("blocks.11.norm.weight") == "block_11"
    assert layer_group("final_norm.weight") == "final_norm"


def test_means_are_weighted_by_tokens() -> None:
    assert STEPS.mean("entropy") == pytest.approx(350 / 150)
    assert STEPS.per_token("entropy").tolist() == [2.0, 3.0]
    assert STEPS.count == 2


@pytest.mark.parametrize(
    ("declared", "devices", "expected"), [(None, 1, None), (2.0, 1, 0.25), (2.0, 2, 0.125)]
)
def test_throughput(declared: float | None, devices: int, expected: float | None) -> None:
    from lmx.config.compose import compose

    overrides = [
        f"hardware.peak_tflops={declared or 'null'}",
        "tokenizer=byte",
        "data.sequence_length=64",
        "optimizer.sharpness_rho=0.05",
    ]
    experiment = compose(overrides)
    experiment.model.vocab_size = 257
    flops = 2 * flops_per_token(experiment.model, 64).training  # of both gradients of an update
    # as many tokens in two seconds as make half a teraflop a second
    tokens = np.array([0.5e12 * 2 / flops])
    steps = Steps({}, tokens, np.zeros((1, 1)), np.zeros(1))
    callback = Throughput()
    trained: Any = module(experiment=experiment, device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(world_size=devices, precision="32-true")
    callback.on_fit_start(trainer, trained)
    values = callback.measure(steps, trained, 2.0)
    assert values["speed/step_seconds"] == 2.0
    assert values["speed/tokens_per_second"] == pytest.approx(tokens[0] / 2)
    assert values["speed/mfu"] == (None if expected is None else pytest.approx(expected))


def test_peak_memory_is_that_of_this_process() -> None:
    before = PeakMemory().measure(STEPS, module(device=torch.device("cpu")), 1.0)["memory/peak_rss_mib"]
    assert before is not None
    assert before > 50
    ballast = torch.ones(150 * 2**18)  # 150 MiB
    after = PeakMemory().measure(STEPS, module(device=torch.device("cpu")), 1.0)["memory/peak_rss_mib"]
    assert after is not None
    with open("/proc/self/status") as file:
        (peak,) = [int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM")]
    assert after == pytest.approx(peak, rel=0.02)
    assert ballast[0] == 1


@pytest.mark.parametrize(
    ("monitor", "values", "stops"),
    [
        ("val/loss", [3, 2, 2.5, 2.4], True),
        ("val/loss", [3, 2, 2.5, 1.9], False),
        ("val/accuracy", [0.1, 0.2, 0.15, 0.2], True),
        ("val/accuracy", [0.1, 0.2, 0.15, 0.3], False),
    ],
)
def test_early_stopping_waits_for_two_in_a_row(monitor: str, values: list[float], stops: bool) -> None:
    reasons: list[str] = []
    callback = EarlyStopping(monitor=monitor, patience=2)
    trainer: Any = None
    for value in values:
        callback.on_evaluation(trainer, module(stop=reasons.append), {monitor: value})
    assert bool(reasons) is stops


def test_early_stopping_wants_more_than_min_delta_and_remembers() -> None:
    reasons: list[str] = []
    first = EarlyStopping(patience=2, min_delta=0.1)
    trainer: Any = None
    for value in (3.0, 2.95):
        first.on_evaluation(trainer, module(stop=reasons.append), {"val/loss": value})
    second = EarlyStopping(patience=2, min_delta=0.1)
    second.load_state_dict(first.state_dict())
    second.on_evaluation(trainer, module(stop=reasons.append), {"val/loss": 2.92})
    assert reasons == ["val/loss did not improve in 2 evaluations"]


def test_the_window_keeps_every_update_through_a_save() -> None:
    window = Window()
    for number in range(3):
        sums, norms = torch.full((len(SUMS),), float(number)), torch.tensor([1.0, number])
        window.add(sums, norms, 10.0 + number, number == 1, norms.sum(), torch.tensor([number]))
    copy = Window()
    copy.load_state_dict(window.state_dict())
    assert len(copy) == len(window) == 3
    steps = copy.take()
    assert steps.tokens.tolist() == [10, 11, 12]
    assert steps.norms.tolist() == [[1, 0], [1, 1], [1, 2]]
    assert steps.sums["confidence"].tolist() == [0, 1, 2]
    assert len(copy) == 0


def test_micro_batches_add_up_in_the_order_of_the_names() -> None:
    parts = [TokenSums(*(torch.tensor(float(scale * place)) for place in range(9))) for scale in (1, 10)]
    assert step_sums(parts).tolist() == [11.0, 22.0, 33.0, 44.0, 55.0, 88.0]
    assert step_sums(parts[:1]).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 8.0]


def test_the_stopwatch_leaves_passages_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("lmx.training.window.time.perf_counter", lambda: now)
    watch = Stopwatch(elapsed=5.0)
    with watch.paused():
        now = 1.0
    assert watch.seconds == 5.0, "it does not start by being paused"
    watch.start()
    now = 3.0
    with watch.paused():
        now = 100.0
    now = 101.0
    assert watch.seconds == 5.0 + 2.0 + 1.0
