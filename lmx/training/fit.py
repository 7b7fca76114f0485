"""One run from a validated experiment to a finished folder."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from lmx.config import CheckpointError, ConfigError, Experiment, SpaceError, bad_choice
from lmx.config.validate import to_dict
from lmx.data import Corpus, TokenDataModule, prepare
from lmx.measure import parameter_counts, training_flops
from lmx.runs import POINTER_VARIABLE, MetricsLog, RunFolder
from lmx.runs.files import sync
from lmx.runs.lock import taken
from lmx.training.callbacks import EarlyStopping, Samples
from lmx.training.checkpoints import LAST, checkpoints, newest_good, remove_others, step_of
from lmx.training.ending import Signals
from lmx.training.evaluate import TEST
from lmx.training.hardware import Machine, choose
from lmx.training.horizon import evaluation_interval, total_steps
from lmx.training.live_report import LiveReport, Render
from lmx.training.module import LanguageModule
from lmx.training.pretrained import adopt
from lmx.training.randomness import seed_all
from lmx.training.resume import (
    Say,
    check_source,
    find,
    fingerprint,
    load_experiment,
    load_weights,
    missing_records,
)
from lmx.training.self_check import check_model
from lmx.training.space import check_space, said_once
from lmx.training.totals import measure_names
from lmx.training.trainer import assemble, build_callbacks, check_loggers


@dataclass
class Job:
    """Everything a run needs, built and checked before its folder exists."""

    experiment: Experiment
    corpus: Corpus
    machine: Machine
    module: LanguageModule
    callbacks: list[pl.Callback]


@dataclass
class Outcome:
    """How a run ended."""

    folder: RunFolder
    exit_status: int  # 0, or 128 + the signal that ended it
    step: int


def train(experiment: Experiment, overrides: Sequence[str] = (), render: Render | None = None) -> Outcome:
    """Train and evaluate one experiment in a run folder of its own, or continue one.

    `render` is called with the run folder after evaluations, but for those that follow too soon.

    Raises an LmxError for whatever the user can mend; the run folder then says why it failed, or does
    not exist where nothing was begun.
    """
    experiment, folder = find(experiment, overrides, _say)
    checkpoint = None
    if folder is None:
        job, folder, space = _begin(experiment, overrides)
    else:
        with taken(folder.path):  # another process might remove what is found
            job = build(experiment, _say, fresh=False)
            space = check_space(job.experiment, folder.path, folder.checkpoints)
            checkpoint = _continue(folder, job)
    _point_to(folder)
    _announce(job, folder, space)
    return _run(job, folder, checkpoint, render)


def build(experiment: Experiment, say: Say, *, fresh: bool) -> Job:
    """Prepare the corpus and build the module; every setting is refused here or not at all.

    A run that is not `fresh` takes its weights from a checkpoint of its own.
    """
    callbacks = build_callbacks(experiment)
    check_loggers(experiment)
    corpus = prepare(experiment.data, experiment.tokenizer, experiment.paths.cache, say)
    if experiment.train.test_at_end and TEST not in corpus.splits:
        raise ConfigError(
            f"train.test_at_end: got true, allowed: false ({experiment.data.name} has no test split, only "
            f"{', '.join(corpus.splits)})"
        )
    experiment = complete(experiment, corpus)
    _check_callbacks(experiment, callbacks, corpus)
    per_epoch = corpus.steps_per_epoch(experiment.train.batch_size, experiment.data.drop_last)
    steps = total_steps(experiment, per_epoch)
    machine = choose(experiment.hardware, steps)
    check_precision(experiment, machine.precision)
    seed_all(experiment.seed)
    module = LanguageModule(experiment, steps, corpus.fingerprint)
    if fresh and experiment.init_from is not None:
        load_weights(module.model, experiment.init_from, say)
    if machine.compile:
        module.compile_parts()
    return Job(experiment, corpus, machine, module, callbacks)


def check_precision(experiment: Experiment, precision: str) -> None:
    """Raise ConfigError for what the precision, which may have been chosen here, does not go with."""
    sigmas = experiment.train.spike_sigmas
    if precision == "fp16" and sigmas is not None:
        raise ConfigError(
            f"train.spike_sigmas: got {sigmas} with hardware.precision=fp16, whose scaling leaves out "
            "updates of its own, allowed: null, or hardware.precision=bf16 or fp32"
        )
    rho = experiment.optimizer.sharpness_rho
    if precision == "fp16" and rho:
        raise ConfigError(
            f"optimizer.sharpness_rho: got {rho} with hardware.precision=fp16, whose loss scale could change "
            "between the two gradients, allowed: 0, or hardware.precision=bf16 or fp32"
        )


def _check_callbacks(experiment: Experiment, callbacks: list[pl.Callback], corpus: Corpus) -> None:
    """Raise ConfigError for a monitor that no evaluation measures, or a prompt that is too long."""
    monitors = [("checkpoint.best", experiment.checkpoint.best)]
    for callback in callbacks:
        if isinstance(callback, EarlyStopping):
            monitors.append((f"callbacks.{callback.name}.monitor", callback.monitor))
        if isinstance(callback, Samples):
            callback.read_prompts(corpus.tokenizer, experiment.context_length)
    measured = measure_names(corpus.splits["validation"], experiment.objective)
    for key, monitor in monitors:
        if monitor is not None and monitor not in measured:
            raise ConfigError(bad_choice(key, monitor, measured))


def complete(experiment: Experiment, corpus: Corpus) -> Experiment:
    """Fill in what only the corpus knows: vocabulary and context.

    Raises ConfigError when the model's vocabulary is smaller than the tokenizer's.
    """
    needed = corpus.tokenizer.vocab_size
    given = experiment.model.vocab_size
    if given is not None and given < needed:
        raise ConfigError(
            f"model.vocab_size: got {given}, allowed: at least the tokenizer's {needed} "
            "(or null: the tokenizer's own)"
        )
    model = dataclasses.replace(
        experiment.model, vocab_size=given or needed, context_length=experiment.context_length
    )
    return dataclasses.replace(experiment, model=model)


def fit_rank(folder: RunFolder) -> None:
    """Take part in a distributed run that rank 0 has described in `folder`."""
    job = build(load_experiment(folder), lambda text: None, fresh=False)
    found = newest_good(folder.checkpoints, LAST, lambda text: None)
    _fit(job, folder, None if found is None else found[0])


def _fit(job: Job, folder: RunFolder, checkpoint: Path | None, render: Render | None = None) -> None:
    start = 0 if checkpoint is None else step_of(checkpoint)
    total = job.module.total_steps
    if total is not None:  # without a batch Lightning would leave out the end of the run as well
        total = max(total, start + 1)
    data = TokenDataModule(job.experiment, job.corpus, total_steps=total, start_step=start)
    with Signals() as signals, said_once():
        trainer = assemble(
            job.experiment, job.corpus, folder, job.machine, job.callbacks, signals, checkpoint
        )
        if render is not None:
            trainer.callbacks.append(LiveReport(folder, render))  # type: ignore[attr-defined]
        trainer.fit(job.module, datamodule=data, ckpt_path=checkpoint, weights_only=True)


def _run(job: Job, folder: RunFolder, checkpoint: Path | None, render: Render | None) -> Outcome:
    module = job.module
    try:
        _fit(job, folder, checkpoint, render)
    except BaseException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        with suppress(SpaceError):  # a full disk must not hide why it ended
            folder.set_status("failed", reason, step=module.step)
        raise
    status = "interrupted" if module.interrupted else "completed"
    folder.set_status(status, module.stop_reason, step=module.step, result=module.result)
    return Outcome(folder, 128 + module.signal if module.interrupted else 0, module.step)


def _begin(experiment: Experiment, overrides: Sequence[str]) -> tuple[Job, RunFolder, str]:
    """Build a new run, check it and describe it in a folder of its own; also say what room it needs."""
    identity = fingerprint(experiment)
    RunFolder.place(experiment.paths.outputs, experiment.name)  # before the corpus is prepared in vain
    if experiment.init_from is not None:
        check_source(experiment.init_from)
    job = build(adopt(experiment, overrides), _say, fresh=True)
    experiment = job.experiment
    space = check_space(experiment, RunFolder.place(experiment.paths.outputs, experiment.name))
    tested = check_model(experiment, job.module.model, job.machine.accelerator, _say)
    folder = RunFolder.create(experiment.paths.outputs, experiment.name)
    _describe(folder, job, overrides, identity, tested)
    return job, folder, space


def _continue(folder: RunFolder, job: Job) -> Path | None:
    """Mark a run as running again; return the checkpoint to go on from, None to start again in its folder.

    Raises CheckpointError when all its checkpoints are damaged, ConfigError when nothing is left to train.
    """
    found = newest_good(folder.checkpoints, LAST, _say)
    if found is None and checkpoints(folder.checkpoints, LAST):
        raise CheckpointError(f"{folder.path}: all its checkpoints are damaged (init_from, or a new run)")
    before = load_experiment(folder)
    if found is not None:
        _check_horizon(folder, step_of(found[0]), before, job)
    folder.set_status("running")
    folder.discard_leftovers()
    if found is None:
        _say(f"{folder.path}: no checkpoint yet, starting again in the same folder")
    else:
        _say(f"going on from {found[0]}")
        # newer ones are damaged, and would be taken for the newest
        if whole := [path for path in checkpoints(folder.checkpoints, LAST) if path <= found[0]]:
            remove_others(folder.checkpoints, LAST, whole)
    # by step as well as by position: in a shortened log later lines may stand before the position
    for log in (folder.metrics, folder.sample_log):
        MetricsLog(log).rewind(-1 if found is None else step_of(found[0]))
    changes: dict[str, Any] = {}
    if found is not None and (missing := missing_records(folder, found[1])):
        _say("\n".join(missing))
        changes["missing"] = list(dict.fromkeys([*(folder.read_identity().get("missing") or ()), *missing]))
    folder.write_config(to_dict(job.experiment))
    if fingerprint(before) != fingerprint(job.experiment):  # it is no longer the run that `auto` looks for
        changes["config_fingerprint"] = fingerprint(job.experiment)
    hardware = dataclasses.asdict(job.machine)
    folder.update_identity(hardware=hardware, total_steps=job.module.total_steps, **changes)
    return None if found is None else found[0]


def _check_horizon(folder: RunFolder, step: int, before: Experiment, job: Job) -> None:
    total, horizon = job.module.total_steps, job.experiment.train.horizon
    completed = folder.read_identity().get("status") == "completed"
    if completed and horizon == before.train.horizon:
        raise ConfigError(
            f"resume: {folder.path} is already completed at step {step}; a longer train.horizon continues it"
        )
    if total is not None and (total < step or (completed and total == step)):
        raise ConfigError(
            f"train.horizon: got {horizon!r}, allowed: more than the {step} steps of {folder.path}"
        )


def _describe(
    folder: RunFolder, job: Job, overrides: Sequence[str], identity: str, self_test: dict[str, Any]
) -> None:
    experiment, counts = job.experiment, parameter_counts(job.experiment.model)
    folder.write_config(to_dict(experiment))
    job.corpus.tokenizer.save(folder.tokenizer)
    for path in (*folder.tokenizer.iterdir(), folder.tokenizer):
        sync(path)
    per_epoch = job.corpus.steps_per_epoch(experiment.train.batch_size, experiment.data.drop_last)
    folder.write_identity(
        name=experiment.name,
        overrides=list(overrides),
        seed=experiment.seed,
        config_fingerprint=identity,
        hardware=dataclasses.asdict(job.machine),
        data=job.corpus.facts,
        tokenizer={"name": experiment.tokenizer.name, "fingerprint": job.corpus.tokenizer.fingerprint},
        parameters={"total": counts.total, "without_embedding": counts.without_embedding},
        total_steps=job.module.total_steps,
        steps_per_epoch=per_epoch,
        flops_per_token=training_flops(experiment),
        self_test=self_test,
    )


def _announce(job: Job, folder: RunFolder, space: str) -> None:
    experiment, counts = job.experiment, parameter_counts(job.experiment.model)
    train, T = experiment.train, experiment.data.sequence_length
    steps = job.module.total_steps
    length = f"{steps:,} steps" if steps is not None else train.horizon
    whole, inner = f"{counts.total:,} parameters", f"{counts.without_embedding:,} without embedding"
    learning = f"{experiment.optimizer.name} {experiment.optimizer.lr:g}, {experiment.schedule.name}"
    rows = (
        ("data", job.corpus.describe()),
        ("model", f"{experiment.model.name}: {whole}, {inner}"),
        ("train", f"{length} of {train.batch_size} × {T} tokens; {learning}; seed {experiment.seed}"),
        ("eval", _describe_evaluation(job)),
        ("machine", job.machine.describe()),
        ("space", space),
        ("run", str(folder.path)),
    )
    for name, text in rows:
        print(f"{name:<8}{text}", flush=True)
    print(flush=True)


def _describe_evaluation(job: Job) -> str:
    """How often it evaluates, and its share of the work: a forward pass is a third of a training step."""
    experiment, corpus = job.experiment, job.corpus
    batch = experiment.train.batch_size
    steps = evaluation_interval(experiment, corpus.steps_per_epoch(batch, experiment.data.drop_last))
    windows = experiment.train.eval_windows or len(corpus.splits["validation"])
    forward = windows / (3 * experiment.passes)
    share = forward / (forward + steps * batch)
    tokens = windows * experiment.data.sequence_length
    return f"every {steps:,} steps on {tokens:,} validation tokens, about {share:.0%} of the work"


def _point_to(folder: RunFolder) -> None:
    pointer = os.environ.get(POINTER_VARIABLE)
    if pointer:
        Path(pointer).write_text(str(folder.path.resolve()))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
