"""A run that never was: realistic records, written through lmx.runs alone."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmx.config.compose import compose
from lmx.config.validate import to_dict
from lmx.runs import JobRecord, MetricsLog, RunFolder, StudyRecord, config_fingerprint, write_study

STEPS_PER_EPOCH = 300
TOKENS_PER_STEP = 8192


def write_run(
    outputs: Path,
    overrides: tuple[str, ...] = (),
    *,
    steps: int = 600,
    every: int = 10,
    evaluate: int | None = 100,
    floor: float | None = 0.85,
    status: str | None = "completed",
    reason: str | None = None,
    level: float = 1.1,
    noise: int = 0,
    gpu: bool = False,
    tokenizer: str = "bpe-1k",
) -> RunFolder:
    """Write the records of a training run of `steps` updates whose loss falls from ln V towards `level`."""
    config = copy.deepcopy(_composed(overrides))
    folder = RunFolder.create(outputs, config["name"])
    folder.write_config(config)
    folder.write_identity(
        name=config["name"],
        overrides=overrides,
        seed=config["seed"],
        config_fingerprint=config_fingerprint(config),
        hardware={
            "accelerator": "gpu" if gpu else "cpu",
            "device_name": "NVIDIA H100" if gpu else "a CPU",
            "devices": 1,
            "precision": "bf16",
            "threads": 2,
            "compile": False,
            "reasons": ["no GPU was found"],
        },
        data={"fingerprint": "d0", "splits": {"train": {"tokens": STEPS_PER_EPOCH * TOKENS_PER_STEP}}},
        tokenizer={"fingerprint": tokenizer, "vocab_size": 1024},
        parameters={"total": 950_000, "embedding": 131_072, "without_embedding": 818_928},
    )
    log, samples, rng = MetricsLog(folder.metrics), MetricsLog(folder.sample_log), random.Random(noise)
    if evaluate:
        log.append(_evaluation(0, math.log(1024), floor))
    for step in range(every, steps + 1, every):
        log.append(_training(step, every, steps, _loss(step, level) + rng.gauss(0, 0.03), rng, gpu))
        if evaluate and (step % evaluate == 0 or step == steps):
            log.append(_evaluation(step, _loss(step, level) + 0.02, floor))
            text = " there was a cat who saw a cat and a dog."
            samples.append({"step": step, "prompt": "Once upon a time", "text": text, "seed": 0})
    if status is not None:
        folder.set_status(status, reason, step=steps)
    return folder


def write_a_study(
    folder: Path, arms: dict[str, dict[str, Any]], seeds: tuple[int, ...] = (1, 2), **options: Any
) -> Path:
    """Write a study's folder: arm → options of its runs, the first arm the baseline; `rate` is its own."""
    record = StudyRecord("rates", "Which rate?", next(iter(arms)), "val/bits_per_byte", {}, "none")
    for place, (arm, given) in enumerate(arms.items()):
        record.arms[arm] = [f"optimizer.lr={place + 1}e-3"]
        for seed in seeds:
            words = (*record.arms[arm], f"seed={seed}", f"name=seed{seed}")
            chosen = {"level": 1.1 + place / 20 + seed / 1000, "noise": seed, **options, **given}
            run = write_run(folder / arm, words, **chosen)
            record.jobs.append(JobRecord(arm, seed, run.read_identity()["config_fingerprint"], 0))
    write_study(folder, record)
    return folder


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return to_dict(compose(overrides))


def _loss(step: int, level: float) -> float:
    return level + (math.log(1024) - level) * math.exp(-step / 120) + 1.5 / (1 + step / 40)


def _common(kind: str, step: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "step": step,
        "epoch": step / STEPS_PER_EPOCH,
        "tokens": step * TOKENS_PER_STEP,
        "seconds": step * 0.16,
        "flops": step * TOKENS_PER_STEP * 5.9e6,
    }


def _training(
    step: int, every: int, steps: int, loss: float, rng: random.Random, gpu: bool
) -> dict[str, Any]:
    norm, entropy = 0.4 + 1.2 * math.exp(-step / 80) + rng.gauss(0, 0.03), loss * 0.97
    exponent, rate = entropy + norm, TOKENS_PER_STEP / (0.16 + abs(rng.gauss(0, 0.004)))
    memory = {"memory/peak_allocated_mib": 2786.7, "memory/peak_reserved_mib": 3000.0}
    return {
        **_common("train", step),
        "steps": every,
        "train/loss": loss,
        "train/entropy": entropy,
        "train/accuracy": 1 / (1 + loss),
        "train/accuracy_top5": 1 / (1 + loss / 3),
        "train/confidence": 1 / (1 + loss * 1.1),
        "train/grad_norm": norm,
        **{f"train/grad_norm/block_{i:02d}": norm / (2 + i) for i in range(4)},
        "train/grad_norm/embedding": norm / 1.5,
        "train/pi": math.exp(-exponent),
        "train/log_pi": -exponent,
        "train/effective_gamma": norm / exponent,
        "train/lr": 1e-3 * min(step / 30, 0.1 + 0.45 * (1 + math.cos(math.pi * step / steps))),
        "speed/step_seconds": TOKENS_PER_STEP / rate,
        "speed/tokens_per_second": rate,
        "speed/mfu": None,
        **(memory if gpu else {"memory/peak_rss_mib": 812.25}),
    }


def _evaluation(step: int, loss: float, floor: float | None) -> dict[str, Any]:
    bits = loss / math.log(2) / 2.1
    known: dict[str, float] = {}
    if floor is not None:
        known = {"val/floor_bits_per_byte": floor, "val/excess_bits_per_byte": bits - floor}
    return {
        **_common("val", step),
        "val/loss": loss,
        "val/perplexity": math.exp(loss),
        "val/bits_per_byte": bits,
        "val/word_perplexity": math.exp(loss * 1.6),
        "val/entropy": loss * 0.98,
        "val/accuracy": 1 / (1 + loss),
        "val/accuracy_top5": 1 / (1 + loss / 3),
        "val/confidence": 1 / (1 + loss * 1.1),
        **known,
        "val/seconds": 1.5,
    }


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunFolder]:
    """Write synthetic runs below `tmp_path / "outputs"`; the arguments are those of `write_run`."""
    state = {"commit": "0123456789abcdef", "dirty": True}
    monkeypatch.setattr("lmx.runs.identity.git_state", lambda: state)  # asking git takes longer than the rest
    return lambda *arguments, **options: write_run(tmp_path / "outputs", *arguments, **options)


@pytest.fixture
def make_study(tmp_path: Path, make_run: Callable[..., RunFolder]) -> Callable[..., Path]:
    """Write a synthetic study, each in a folder of its own; the arguments are those of `write_a_study`."""
    places = (tmp_path / str(number) / "rates" for number in itertools.count(1))
    return lambda *arguments, **options: write_a_study(next(places), *arguments, **options)
