"""How long reports take over long runs: `python -m benchmarks.reports [RUNS] [STEPS]`.

Writes a study of RUNS runs of STEPS logged steps each into a temporary folder, renders its report and that of
single runs, each in a process of its own, and prints seconds and peak memory of that process. The records are
made up, in the form that training writes; the four seeds of a configuration share theirs.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from lmx.config.compose import compose
from lmx.config.validate import to_dict
from lmx.runs import JobRecord, RunFolder, StudyRecord, config_fingerprint, write_study, write_windows
from lmx.runs.metrics import encode_line

SEEDS = 4
EVALUATIONS = 20
TOKENS = 2048  # a step
BITS = 2.1 * math.log(2)  # nats per token for a bit per byte
WINDOWS = 500
SHORT = 300  # records of an everyday run
AUDIT = """
import sys
from lmx.audit import audit_run
from lmx.runs import read_run
audit_run(read_run(sys.argv[1]))
"""


def write_made_up_study(folder: Path, runs: int, steps: int) -> Path:
    """Write a study's folder with `runs` completed runs; return the first run's folder."""
    arms = [f"lr={rate:.2e}" for rate in np.geomspace(1e-4, 1e-1, max(1, runs // SEEDS))]
    record = StudyRecord("made_up", "How long does this take?", arms[0], "val/bits_per_byte", {}, "none")
    rng = np.random.default_rng(0)
    records = {arm: _records(steps, rng) for arm in arms}
    for number in range(runs):
        arm, seed = arms[number // SEEDS % len(arms)], number % SEEDS
        record.arms[arm] = [f"optimizer.{arm}"]
        config = to_dict(compose([f"optimizer.{arm}", f"seed={seed}"]))
        fingerprint = config_fingerprint(config)
        job = JobRecord(arm, seed, fingerprint, 0)
        record.jobs.append(job)
        run = _write_run(folder / arm, f"seed{seed}", config, fingerprint, steps)
        run.metrics.write_bytes(records[arm])
        run.windows.mkdir()
        write_windows(run.windows / "best.npz", rng.gamma(4, 77, WINDOWS), np.full(WINDOWS, 256), steps)
    write_study(folder, record)
    return next(folder.glob("*/seed0/*"))


def _write_run(
    outputs: Path, name: str, config: dict[str, object], fingerprint: str, steps: int
) -> RunFolder:
    run = RunFolder.create(outputs, name)
    run.write_config(config)
    identity = {"format": 1, "name": name, "seed": config["seed"], "config_fingerprint": fingerprint}
    more = {"status": "completed", "started": str(run.path), "sessions": [{"step": steps}]}
    sizes = {"parameters": {"total": 950_000, "without_embedding": 820_000}}
    run.identity.write_text(json.dumps({**identity, **more, **sizes, "hardware": {"device_name": "none"}}))
    return run


def _records(steps: int, rng: np.random.Generator) -> bytes:
    """Return a `metrics.jsonl` whose loss falls to a level of its own."""
    level = 1.2 + 0.2 * rng.random()
    losses = level + 5.7 * np.exp(-np.arange(steps + 1) / (steps / 8)) + rng.normal(0, 0.03, steps + 1)
    lines = []
    for step, loss in enumerate(losses.tolist()):
        if step:
            lines.append(encode_line(_train(step, loss)))
        if step % (steps // EVALUATIONS) == 0:
            lines.append(encode_line(_evaluation(step, loss)))
    return b"".join(lines)


def _common(kind: str, step: int) -> dict[str, object]:
    return {
        "kind": kind,
        "step": step,
        "epoch": step / 1000,
        "tokens": step * TOKENS,
        "seconds": step * 0.1,
        "flops": step * 1e10,
    }


def _train(step: int, loss: float) -> dict[str, object]:
    groups = {f"train/grad_norm/block_{index:02d}": 0.1 * loss for index in range(8)}
    return {
        **_common("train", step),
        "steps": 1,
        "train/loss": loss,
        "train/entropy": loss,
        "train/accuracy": 1 / (1 + loss),
        "train/accuracy_top5": 1 / (1 + loss / 3),
        "train/confidence": 1 / (1 + loss),
        "train/grad_norm": 0.3 * loss,
        **groups,
        "train/pi": math.exp(-1.3 * loss),
        "train/log_pi": -1.3 * loss,
        "train/effective_gamma": 0.23,
        "train/lr": 1e-3,
        "speed/step_seconds": 0.1,
        "speed/tokens_per_second": TOKENS / 0.1,
        "speed/mfu": None,
        "memory/peak_rss_mib": 812.25,
    }


def _evaluation(step: int, loss: float) -> dict[str, object]:
    return {
        **_common("val", step),
        "val/loss": loss,
        "val/perplexity": math.exp(loss),
        "val/bits_per_byte": loss / BITS,
        "val/entropy": loss,
        "val/accuracy": 1 / (1 + loss),
        "val/accuracy_top5": 1 / (1 + loss / 3),
        "val/confidence": 1 / (1 + loss),
        "val/seconds": 1.5,
    }


def measured(*words: str) -> tuple[float, float, float]:
    """Run `python WORDS`; return (seconds, CPU seconds, peak MiB) of its process."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{' '.join(words)}: exit status {os.waitstatus_to_exitcode(status)}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Write, render, print."""
    runs, steps = (int(word) for word in (*sys.argv[1:], "100", "10000")[:2])
    folder = Path(tempfile.mkdtemp(prefix="lmx-reports-"))
    try:
        # by another process: what starts a process counts in its peak memory, and writing takes much
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as writer:
            long = writer.submit(write_made_up_study, folder / "made_up", runs, steps).result()
            short = writer.submit(write_made_up_study, folder / "short", 1, SHORT).result()
        size = sum(path.stat().st_size for path in folder.rglob("metrics.jsonl")) / 2**20
        print(f"{runs} runs of {steps:,} logged steps, {size:,.0f} MiB of records")
        print(f"{'':34}{'seconds':>9}{'CPU seconds':>13}{'peak MiB':>10}   with Python's start and imports")
        for title, words in (
            (f"report of a run of {SHORT:,} records", ("-m", "lmx.report", str(short))),
            (f"report of a run of {steps:,} records", ("-m", "lmx.report", str(long))),
            (f"audit of a run of {steps:,} records", ("-c", AUDIT, str(long))),
            ("report of the study", ("-m", "lmx.report", str(folder / "made_up"))),
        ):
            seconds, cpu, peak = measured(*words)
            print(f"{title:34}{seconds:9.2f}{cpu:13.2f}{peak:10.0f}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
