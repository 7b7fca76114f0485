"""Run a study, every arm with every seed: `python -m lmx.study NAME [key=value ...]`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lmx.config.door import Parser, guarded
from lmx.config.errors import ConfigError, DataError
from lmx.config.study import Study, StudyJob, compose_jobs, folder_name, read_study, study_names
from lmx.config.validate import to_dict

if TYPE_CHECKING:
    from lmx.launch import Job, Processes
    from lmx.plan import Cost
    from lmx.runs import JobRecord, JobState, StudyRecord

DESCRIPTION = """\
Run a study: a named grid of experiments, each with several seeds. Every job is a process with a folder of
its own, OUTPUTS/NAME/ARM/seedN; one that fails is told of and the others go on. The same command again runs
what is missing, failed or interrupted, from its last checkpoint. The report is written while jobs end."""
EPILOG = """\
studies: {names}; or FILE.yaml of your own
examples:
  python -m lmx.study cs336_lr --list                     # the jobs, how they stand, what they cost
  python -m lmx.study cs336_lr
  python -m lmx.study cs336_lr train.horizon=50steps      # a trial, in a folder of its own
  python -m lmx.report outputs/cs336_lr                   # render its report again"""
EVALUATED = "step "  # how a line begins that a job says of an evaluation
RENDER_SHARE = 0.1  # of the time; the report is rendered less often where it would take more


@dataclass
class Work:
    """A study, its jobs, and where they stand."""

    study: Study
    jobs: list[StudyJob]
    folder: Path
    record: StudyRecord
    costs: list[Cost | None]  # of each job; None: not known before the tokenizer is there
    spent: list[tuple[float, float | None]] = field(default_factory=list)  # seconds, FLOPs of jobs run now

    def entry(self, job: StudyJob) -> JobRecord:
        """The job's entry in the record."""
        return next(item for item in self.record.jobs if (item.arm, item.seed) == (job.arm, job.seed))

    def state(self, job: StudyJob) -> JobState:
        """How the job stands."""
        from lmx.runs.studies import job_state

        return job_state(self.folder, self.entry(job))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status: 0 when all jobs are completed, else 1."""
    return guarded(lambda: run(_parser().parse_intermixed_args(argv)))


def run(arguments: argparse.Namespace) -> int:
    """Compose every job, then list or run them."""
    name, *overrides = arguments.words
    work = _work(name, overrides, arguments.seeds)
    if arguments.list:
        print(listing(work))
        return 0
    return execute(work)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m lmx.study",
        usage="python -m lmx.study NAME [KEY=VALUE ...] [--seeds 1,2,3] [--list]",
        description=DESCRIPTION,
        epilog=EPILOG.format(names=", ".join(study_names())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="NAME",
        help="a study of conf/study or a YAML file; then overrides that hold for every job",
    )
    parser.add_argument("--seeds", type=_seeds, metavar="1,2,3", help="seeds instead of the study's own")
    parser.add_argument("--list", action="store_true", help="list the jobs and what they cost; run nothing")
    return parser


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**31 for seed in seeds):
        raise ConfigError(f"--seeds: got {text!r}, allowed: different whole numbers from 0, such as 1,2,3")
    return seeds


# ---- what there is to do


def _work(name: str, overrides: Sequence[str], seeds: Sequence[int] | None) -> Work:
    from lmx.plan import cost
    from lmx.runs import JobRecord, StudyRecord, config_fingerprint

    study = read_study(name)
    jobs = compose_jobs(study, overrides, seeds)
    folder = Path(jobs[0].experiment.paths.outputs).expanduser() / folder_name(study.name, overrides)
    record = StudyRecord(
        name=study.name,
        question=study.question,
        baseline=study.baseline,
        metric=study.metric,
        arms={arm: [*own, *overrides] for arm, own in study.arms.items()},
        command=shlex.join(["python", "-m", "lmx.study", name, *overrides]),
        overrides=list(overrides),
        jobs=[JobRecord(job.arm, job.seed, config_fingerprint(to_dict(job.experiment))) for job in jobs],
    )
    _remember(folder, record)
    costs: dict[str, Cost | None] = {}
    for job in jobs:
        if job.arm not in costs:
            try:
                costs[job.arm] = cost(job.experiment)
            except DataError:
                costs[job.arm] = None
            except ConfigError as error:
                if "would have to be fetched" not in str(error):
                    raise ConfigError(f"study {study.name}, arm {job.arm}: {error}") from error
                costs[job.arm] = None
    return Work(study, jobs, folder, record, [costs[job.arm] for job in jobs])


def _remember(folder: Path, record: StudyRecord) -> None:
    """Take over what the folder knows: how jobs ended, and those of other seeds."""
    from lmx.runs import is_study, read_study_record

    if not is_study(folder):
        return
    old = read_study_record(folder)
    before = {(job.arm, job.seed): job for job in old.jobs}
    for job in record.jobs:
        known = before.pop((job.arm, job.seed), None)
        if known is not None and known.fingerprint == job.fingerprint:
            job.exit_status, job.said = known.exit_status, known.said
    record.jobs += [job for job in before.values() if old.arms.get(job.arm) == record.arms.get(job.arm)]


def listing(work: Work) -> str:
    """Return a table of the jobs: how they stand, and their cost."""
    from lmx.report.text import amount, plain_table, show

    rows = []
    for number, (job, cost) in enumerate(zip(work.jobs, work.costs, strict=True), start=1):
        state = work.state(job)
        place = (
            f"{state.status} at step {state.step:,}"
            if state.step and state.status != "completed"
            else state.status
        )
        sizes = ("?",) * 4
        if cost is not None:
            known = cost.steps is not None
            sizes = (
                amount(cost.parameters),
                show(cost.steps, ",") if known else "?",
                amount(cost.tokens) if known else "?",
                show(cost.flops, ".3g") if known else "?",
            )
        rows.append([str(number), job.arm, str(job.seed), place, *sizes])
    headers = ["job", "arm", "seed", "state", "parameters", "steps", "tokens", "FLOPs"]
    lines = [work.study.question, "", plain_table(headers, rows, left=(1, 3)), ""]
    flops = [None if cost is None else cost.flops for cost in work.costs]
    if None not in flops:
        lines.append(f"{sum(filter(None, flops)):.3g} FLOPs of training in all; {work.folder}")
    else:
        lines.append(f"?: known once the corpus is prepared; {work.folder}")
    first = work.jobs[0]
    lines.append(f"one of them in full: python -m lmx.plan {shlex.join(first.overrides[:-1])}")
    return "\n".join(lines)


# ---- doing it


def execute(work: Work) -> int:
    """Run every job that is not completed; return the exit status of the study."""
    from lmx.launch import Processes
    from lmx.runs import write_study

    states = Counter(work.state(job).status for job in work.jobs)
    print(f"{work.study.question}\n{len(work.jobs)} jobs: {_counted(states)}; {work.folder}", flush=True)
    write_study(work.folder, work.record)
    processes = Processes("lmx.train")
    rendered = Rendering(work.folder)
    for number, job in enumerate(work.jobs, start=1):
        state = work.state(job)
        if state.status == "completed":
            continue
        head = f"\njob {number} of {len(work.jobs)}  {job.arm}  seed {job.seed}"
        if state.status == "running":
            print(f"{head}: in training elsewhere, left to it", flush=True)
            continue
        print(f"{head}{_left(work, number - 1)}", flush=True)
        _run_job(work, number, job, processes, goes_on=state.run is not None)
        rendered.after_a_job()
        if processes.received:
            break
    rendered.at_the_end()
    return _conclude(work, processes.received)


def _run_job(work: Work, number: int, job: StudyJob, processes: Processes, *, goes_on: bool) -> None:
    from lmx.runs import write_study
    from lmx.runs.studies import LOG

    entry, cost = work.entry(job), work.costs[number - 1]
    place = work.folder / entry.place
    place.mkdir(parents=True, exist_ok=True)
    resume = ["resume=auto"] if goes_on else []
    said: list[str] = []

    def hear(line: str) -> None:
        said[:] = [*said[-20:], line]
        if line.startswith(EVALUATED) and "val loss" in line:
            print(f"  {line}", flush=True)

    done = processes.run(number, [*job.overrides, *resume], place / LOG, hear)
    entry.exit_status = done.exit_status
    entry.said = "" if done.exit_status == 0 else _reason(done, said)
    write_study(work.folder, work.record)
    if done.exit_status == 0:
        work.spent.append((done.seconds, None if cost is None else cost.flops))
    _log_result(work, job, done, entry.said)
    bits = done.measure("val/bits_per_byte")
    figure = "" if bits is None else f", {bits:.4f} bits/byte"
    why = f": {entry.said}; {place / LOG}" if entry.said and not processes.received else ""
    print(f"  {done.status} in {_clock(done.seconds)}{figure}{why}", flush=True)


def _reason(done: Job, said: list[str]) -> str:
    """What a failed process said last, in one line."""
    lines = [line.strip() for line in said if line.strip()]
    own = [line for line in lines if line.startswith("lmx: ")]
    if done.exit_status < 0:
        return f"killed by {signal.Signals(-done.exit_status).name}"
    return (own or lines or ["it said nothing"])[-1].removeprefix("lmx: ")


def _log_result(work: Work, job: StudyJob, done: Job, reason: str) -> None:
    from lmx.report.results_log import append_result

    append_result(work.folder, job.label, done.status, done.folder, reason)


class Rendering:
    """Renders the study's report while it runs, within a share of the time; a fault there ends no study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0
        self.ended = -float("inf")

    def after_a_job(self) -> None:
        """Render, unless it was done a short while ago for its cost."""
        if time.monotonic() - self.ended < self.seconds / RENDER_SHARE:
            return
        try:
            self._render()
        except Exception as error:  # whatever it is, the jobs to come matter more; the last time it is raised
            print(f"  the report could not be rendered ({type(error).__name__}: {error})", file=sys.stderr)

    def at_the_end(self) -> None:
        """Render, and let an error through."""
        self._render()

    def _render(self) -> None:
        from lmx.report import render_study

        begun = time.monotonic()
        render_study(self.folder)
        self.ended = time.monotonic()
        self.seconds = self.ended - begun


def _conclude(work: Work, received: int) -> int:
    from lmx.report import comparison_table

    states = Counter(work.state(job).status for job in work.jobs)
    print(f"\n{comparison_table(work.folder)}\n\n{_counted(states)}\nReport  {work.folder / 'report.html'}")
    if received:
        name = signal.Signals(received).name
        print(f"lmx: the study was ended by {name}; the same command goes on", file=sys.stderr)
        return 128 + received
    return int(states["completed"] < len(work.jobs))


def _counted(states: Counter[str]) -> str:
    order = ("completed", "running", "interrupted", "failed", "missing")
    return ", ".join(f"{states[name]} {name}" for name in order if states[name])


def _left(work: Work, done: int) -> str:
    """How long it will take, by the jobs that ran so far: by their FLOPs where those are known."""
    if not work.spent:
        return ""
    ahead = [
        cost
        for job, cost in zip(work.jobs[done:], work.costs[done:], strict=True)
        if work.state(job).status not in ("completed", "running")
    ]
    seconds = sum(seconds for seconds, _ in work.spent)
    flops = [item for _, item in work.spent]
    sizes = [None if cost is None else cost.flops for cost in ahead]
    if None in flops or None in sizes:
        left = seconds / len(work.spent) * len(ahead)
    else:
        left = seconds * sum(filter(None, sizes)) / sum(filter(None, flops))
    return f"  about {_clock(left)} left"


def _clock(seconds: float) -> str:
    from lmx.report.text import duration

    return duration(seconds)


if __name__ == "__main__":
    sys.exit(main())
