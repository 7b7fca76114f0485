"""A study without training: its jobs write the records of a run in a moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import yaml

from lmx.config.study import StudyJob, compose_jobs, parse_study
from lmx.launch import Job
from lmx.runs import MetricsLog, RunFolder, newest_unfinished, read_study_record, write_windows

STEPS = 20
TOKENS = 512  # a step
NATS = 2.1 * math.log(2)  # a token, for a bit per byte
PLAIN = """\
question: Which rate is better?
baseline: lr=1e-3
overrides: [train.horizon=20steps]
grid: {optimizer.lr: [1e-3, 2e-3]}
seeds: [1, 2]
"""


def write_records(run: RunFolder, level: float, steps: int = STEPS) -> None:
    """Write what a run of `steps` would have logged; its loss falls from ln 1024 to `level`."""
    log = MetricsLog(run.metrics)
    for step in range(0, steps + 1, 5):
        loss = level + (math.log(1024) - level) * (1 - step / STEPS)
        common = {"step": step, "epoch": step / 100, "tokens": step * TOKENS, "seconds": step * 0.1}
        common["flops"] = step * 1e9
        if step:
            log.append({"kind": "train", **common, "steps": 5, "train/loss": loss, "speed/step_seconds": 0.1})
        evaluation = {"val/loss": loss, "val/perplexity": math.exp(loss), "val/bits_per_byte": loss / NATS}
        log.append(
            {"kind": "val", **common, **evaluation, "val/accuracy": 1 / (1 + loss), "val/seconds": 0.2}
        )
    run.windows.mkdir(exist_ok=True)
    write_windows(run.windows / "best.npz", [level * 64, level * 66], [64, 64], steps)


@cache
def jobs_of(study: str, extra: tuple[str, ...], seeds: tuple[int, ...] | None) -> list[StudyJob]:
    """Compose the jobs once for all tests: they start in a folder of their own each, with the same words."""
    return compose_jobs(parse_study("rates", yaml.safe_load(study)), extra, seeds)


def start_run(overrides: Sequence[str]) -> RunFolder:
    """Make the run folder as training would; with `resume=auto` take the unfinished one."""
    words = dict(line.partition("=")[::2] for line in overrides)
    study, arm, seed = words["name"].strip("'").split("/")
    record = read_study_record(Path(words["paths.outputs"]) / study)
    job = next(job for job in record.jobs if (job.arm, f"seed{job.seed}") == (arm, seed))
    if "resume" in words:
        path = newest_unfinished(words["paths.outputs"], f"{study}/{arm}/{seed}", job.fingerprint)
        assert path is not None, "nothing to resume"
        return RunFolder.open(path)
    run = RunFolder.create(words["paths.outputs"], f"{study}/{arm}/{seed}")
    run.write_config({"name": "rates", "seed": job.seed, "optimizer": {"lr": float(words["optimizer.lr"])}})
    run.write_identity(
        name=f"{study}/{arm}/{seed}",
        overrides=overrides,
        seed=job.seed,
        config_fingerprint=job.fingerprint,
        hardware={"device_name": "a CPU", "devices": 1, "precision": "fp32"},
        data={"fingerprint": "d0"},
        tokenizer={"fingerprint": "t0"},
        parameters={"total": 1000, "without_embedding": 500},
        total_steps=STEPS,
    )
    return run


class FakeProcesses:
    """Stands in for lmx.launch.Processes: `behave` says with which status each job ends."""

    ran: list[tuple[str, ...]]
    behave: Callable[[tuple[str, ...]], int]

    def __init__(self, module: str) -> None:
        assert module == "lmx.train"
        self.received = 0

    def run(
        self,
        number: int,
        overrides: Sequence[str],
        log: Path | None = None,
        hear: Callable[[str], None] | None = None,
    ) -> Job:
        """Write the records of a run that ends as `behave` says."""
        type(self).ran.append(tuple(overrides))
        status = type(self).behave(tuple(overrides))
        assert log is not None
        assert hear is not None
        log.write_text("step 0\n")
        if status == 1:  # before it had a folder
            for line in ("Traceback (most recent call last):", "ValueError: boom"):
                hear(line)
            return Job(number, tuple(overrides), 1, 0.1, None)
        run = start_run(overrides)
        seed = int(next(line for line in overrides if line.startswith("seed=")).removeprefix("seed="))
        better = 0.2 * ("optimizer.lr=2e-3" in overrides)
        write_records(run, 2.0 - better + 0.01 * seed)
        hear("step       5  val loss 2.0000  bits/byte 1.3")
        endings = {
            0: ("completed", None),
            3: ("failed", "the loss is NaN"),
            130: ("interrupted", "signal SIGINT"),
        }
        word, reason = endings[status]
        run.set_status(word, reason, step=STEPS, result={"val/bits_per_byte": 1.3})
        if status == 130:
            self.received = 2
        return Job(number, tuple(overrides), status, 0.1, run.path, run.read_identity())
