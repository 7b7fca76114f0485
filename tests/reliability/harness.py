"""Training processes that are killed with SIGKILL at random moments, and go on until the run is complete."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from training_helpers import Place, same_end

from lmx.runs import RunFolder

PATIENCE = 120.0  # seconds that a process may take before it counts as hung
DROPOUT = ("model.residual_dropout=0.1", "model.embedding_dropout=0.1")
COMMON = (
    *("train.horizon=24steps", "train.eval_every_steps=6", "train.eval_batch_size=16"),
    *("checkpoint.every_steps=3", "checkpoint.keep_last=2", "callbacks.samples.max_new_tokens=2"),
)
CASES = {
    "fp32, dropout": DROPOUT,
    "bf16, 1 worker": (*DROPOUT, "hardware.precision=bf16", "data.num_workers=1"),
    "accumulation, 2 workers": (*DROPOUT, "hardware.micro_batch_size=2", "data.num_workers=2"),
    "Muon, documents": (
        *("optimizer=muon", "data.packing=documents", "model.attend_within_documents=true"),
        "model.mlp_dropout=0.1",
    ),
    "early stopping, TensorBoard, BPE": (
        *("callbacks=early_stopping", "callbacks.early_stopping.patience=2", "logger=tensorboard"),
        *("+callbacks.early_stopping.min_delta=0.9", "tokenizer=bpe", "tokenizer.vocab_size=300"),
    ),
    "two processes": (*DROPOUT, "hardware=ddp_cpu", "hardware.micro_batch_size=2"),
}
# the function at whose start a phase begins
PHASES = {
    "step": ("lmx.training.module", "LanguageModule", "training_step"),
    "validation": ("lmx.training.module", "LanguageModule", "validation_step"),
    "checkpoint": ("lmx.training.checkpoints", None, "write_checkpoint"),
    "metrics": ("lmx.runs.metrics", "MetricsLog", "append"),
    "data": ("lmx.training.fit", None, "prepare"),
    "resume": ("lmx.training.fit", None, "_continue"),
}
RESUMING = 0.1  # seconds that it may take; the run left alone does not tell


@dataclass
class Pace:
    """How often each phase began in the run that was left alone, and how long each took on average."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    def mean(self, phase: str) -> float:
        """Seconds of one."""
        return self.seconds[phase] / max(self.counts[phase], 1)


# ---- in the process that trains


def watched(arguments: list[str], log: str, pipe: Connection) -> None:
    """Train to the end and report the pace."""
    pace = Pace()
    for phase in PHASES:
        _wrap(phase, _clock(phase, pace))
    status = _door(arguments, log)
    pipe.send(pace)
    sys.exit(status)


def victim(arguments: list[str], log: str, pipe: Connection, phase: str, number: int) -> None:
    """Train, and tell when a phase begins for the `number`-th time: whoever listens kills then."""
    entered = 0

    def tell(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal entered
            entered += 1
            if entered == number:
                if phase == "metrics":
                    _tear(*arguments)
                pipe.send(phase)
                if phase == "metrics":
                    time.sleep(PATIENCE)
            return original(*arguments, **options)

        return call

    _wrap(phase, tell)
    sys.exit(_door(arguments, log))


def door_at(moment: float, arguments: list[str], log: str) -> None:
    """Be `python -m lmx.train` from a given moment on, in seconds since the epoch."""
    time.sleep(max(0.0, moment - time.time()))
    sys.exit(_door(arguments, log))


def _tear(log: Any, line: Any) -> None:
    """Write the first part of a line, as a kill in the middle of a write would leave it."""
    log.path.parent.mkdir(exist_ok=True)
    with log.path.open("ab") as file:
        file.write(b'{"kind":"train","step":')


def _clock(phase: str, pace: Pace) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def call(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                pace.counts[phase] += 1
                pace.seconds[phase] += time.perf_counter() - begun

        return call

    return timed


def _wrap(phase: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    import importlib

    module, owner, name = PHASES[phase]
    place = importlib.import_module(module)
    if owner is not None:
        place = getattr(place, owner)
    setattr(place, name, wrapper(getattr(place, name)))


def _door(arguments: list[str], log: str) -> int:
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from lmx.train import main

    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process of its own
    return main(arguments)


# ---- in the process that watches


class Arena:
    """Runs one case again and again, killed and resumed, and compares each with the run left alone."""

    def __init__(
        self,
        case: str,
        folder: Path,
        cache: Path,
        server: ForkServerContext,
        seed: int,
        more: tuple[str, ...] = (),
    ) -> None:
        """`folder` takes the runs, `cache` holds the prepared corpus; `seed` draws the moments."""
        self.case = case
        self.folder = folder
        self.cache = cache
        self.server = server
        self.random = random.Random(f"{case} {seed}")
        self.overrides = (*COMMON, *CASES[case], *more)
        self.folder.mkdir(parents=True)
        place = Place(folder / "whole", folder / "cache")  # a cache of its own: its preparation is timed too
        ours, theirs = server.Pipe()
        process = server.Process(
            target=watched, args=(place.overrides(*self.overrides), str(self.log), theirs)
        )
        process.start()
        theirs.close()
        process.join(PATIENCE)
        assert process.exitcode == 0, f"{case}: exit {process.exitcode}\n{self.tail()}"
        self.pace: Pace = ours.recv()
        self.whole = RunFolder(place.runs()[0])

    @property
    def log(self) -> Path:
        """What all the processes printed."""
        return self.folder / "log.txt"

    def tail(self) -> str:
        """The end of it."""
        return self.log.read_text()[-3000:]

    def chain(self, kills: int, phases: tuple[str, ...] = tuple(PHASES)) -> int:
        """Start a run, kill it `kills` times at most, resume it each time, and compare its end.

        Returns how often it was killed. Raises AssertionError when anything was lost.
        """
        number = sum(1 for _ in self.folder.glob("chain-*"))
        cache = self.folder / f"chain-{number}" / "cache" if "data" in phases else self.cache
        place = Place(self.folder / f"chain-{number}" / "outputs", cache)
        place.outputs.mkdir(parents=True)
        done = 0
        while done < kills:
            phase = self.random.choice(phases)
            if phase == "data" and list(cache.glob("stores/*/manifest.json")):
                continue  # it is prepared by now
            if phase == "resume" and not any(map(_described, place.runs())):
                continue  # there is nothing to resume yet
            if not self._kill(place, phase):
                break
            done += 1
        else:
            self._finish(place)
        (run,) = [path for path in place.runs() if _completed(path)]
        same_end(self.whole, RunFolder(run))
        same_files(self.whole, RunFolder(run))
        shutil.rmtree(self.folder / f"chain-{number}")
        return done

    def _arguments(self, place: Place) -> list[str]:
        return place.overrides(*self.overrides, "resume=auto")

    def _kill(self, place: Place, phase: str) -> bool:
        """Start or resume the run and kill it; False where it was complete before."""
        left = max(1, self.pace.counts[phase] // 2)
        number = self.random.randint(1, left)
        delay = self.random.uniform(0, 1.5 * (self.pace.mean(phase) or RESUMING))
        ours, theirs = self.server.Pipe()
        process = self.server.Process(
            target=victim, args=(self._arguments(place), str(self.log), theirs, phase, number)
        )
        process.start()
        theirs.close()
        try:
            heard = ours.poll(PATIENCE) and bool(ours.recv())
        except EOFError:  # it ended first
            heard = False
        if heard:
            time.sleep(0 if phase == "metrics" else delay)
            self._strike(process.pid, place)
        process.join(PATIENCE)
        killed = process.exitcode == -signal.SIGKILL
        if not killed:
            assert process.exitcode is not None, f"{self.case}: hung\n{self.tail()}"
            fell = self.case == "two processes" and heard and process.exitcode != 0
            assert process.exitcode == 0 or fell, f"{self.case}: exit {process.exitcode}\n{self.tail()}"
            killed = fell
        _no_rank_left(place)
        return killed

    def _strike(self, pid: int | None, place: Place) -> None:
        """Kill the process, or at times the other rank of the two."""
        ranks = rank_processes(place.outputs)
        assert pid is not None
        os.kill(self.random.choice([pid, *ranks]), signal.SIGKILL)

    def _finish(self, place: Place) -> None:
        """Let the run go on to its end."""
        _, theirs = self.server.Pipe(duplex=False)
        process = self.server.Process(target=watched, args=(self._arguments(place), str(self.log), theirs))
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == 0, f"{self.case}: exit {process.exitcode}\n{self.tail()}"


def same_files(left: RunFolder, right: RunFolder) -> None:
    """Assert that two runs have left the same samples and checkpoints, and nothing half-written."""
    assert left.sample_log.read_bytes() == right.sample_log.read_bytes()
    names = [sorted(path.name for path in folder.checkpoints.iterdir()) for folder in (left, right)]
    assert names[0] == names[1]
    assert not list(right.path.rglob("*.tmp"))


def rank_processes(outputs: Path) -> list[int]:
    """The other ranks that train below `outputs`."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if b"lmx.training.rank" in command and str(outputs).encode() in command:
            found.append(int(place.name))
    return found


def _no_rank_left(place: Place) -> None:
    """A rank whose partner is gone must end by itself."""
    limit = time.monotonic() + PATIENCE
    while rank_processes(place.outputs):
        assert time.monotonic() < limit, "a rank goes on alone"
        time.sleep(0.05)


def _described(path: Path) -> bool:
    """Whether a run is one; where it was killed before that, another is started in its place."""
    return RunFolder(path).identity.exists()


def _completed(path: Path) -> bool:
    return _described(path) and RunFolder(path).read_identity()["status"] == "completed"
