"""Run a study, every arm with every seed: `python -m lmx.study NAME [key=value ...]`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmx.config.door import Parser, guarded
from lmx.config.errors import ConfigError
from lmx.config.study import StudyJob, study_names

if TYPE_CHECKING:
    from lmx.launch import Job, Processes
    from lmx.runs.work import Work

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status: 0 when all jobs are completed, else 1."""
    return guarded(lambda: run(_parser().parse_intermixed_args(argv)))


def run(arguments: argparse.Namespace) -> int:
    """Compose every job, then list or run them."""
    from lmx.report.study_live import listing
    from lmx.runs.work import study_work

    name, *overrides = arguments.words
    work = study_work(name, overrides, arguments.seeds)
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


# ---- doing it


def execute(work: Work) -> int:
    """Run every job that is not completed; return the exit status of the study."""
    from lmx.launch import Processes
    from lmx.report.study_live import Rendering, counted
    from lmx.runs import write_study

    jobs = f"{len(work.jobs)} jobs: {counted(work.states())}"
    print(f"{work.study.question}\n{jobs}; {work.folder}", flush=True)
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
        left = work.seconds_left(number - 1)
        print(f"{head}{'' if left is None else f'  about {_clock(left)} left'}", flush=True)
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


def _conclude(work: Work, received: int) -> int:
    from lmx.report import comparison_table
    from lmx.report.study_live import counted

    states = work.states()
    print(f"\n{comparison_table(work.folder)}\n\n{counted(states)}\nReport  {work.folder / 'report.html'}")
    if received:
        name = signal.Signals(received).name
        print(f"lmx: the study was ended by {name}; the same command goes on", file=sys.stderr)
        return 128 + received
    return int(states["completed"] < len(work.jobs))


def _clock(seconds: float) -> str:
    from lmx.report.text import duration

    return duration(seconds)


if __name__ == "__main__":
    sys.exit(main())
