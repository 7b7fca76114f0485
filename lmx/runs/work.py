"""What there is to do in a study: its jobs, what each will take, and how each stands."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmx.config.errors import ConfigError, DataError
from lmx.config.study import Study, StudyJob, compose_jobs, folder_name, read_study
from lmx.config.validate import to_dict
from lmx.measure.estimate import Estimate, estimate
from lmx.runs.identity import config_fingerprint
from lmx.runs.studies import JobRecord, JobState, StudyRecord, is_study, job_state, read_study_record


@dataclass
class Work:
    """A study, its jobs, and where they stand."""

    study: Study
    jobs: list[StudyJob]
    folder: Path
    record: StudyRecord
    costs: list[Estimate | None]  # of each job; None: not known before corpus or tokenizer are there
    spent: list[tuple[float, float | None]] = field(default_factory=list)  # seconds, FLOPs of jobs run now

    def entry(self, job: StudyJob) -> JobRecord:
        """The job's entry in the record."""
        return next(item for item in self.record.jobs if (item.arm, item.seed) == (job.arm, job.seed))

    def state(self, job: StudyJob) -> JobState:
        """How the job stands."""
        return job_state(self.folder, self.entry(job))

    def states(self) -> Counter[str]:
        """How many jobs stand how."""
        return Counter(self.state(job).status for job in self.jobs)

    def seconds_left(self, done: int) -> float | None:
        """Return how long the jobs after the first `done` will take, by those that ran; None before one has.

        By their FLOPs where those are known, else by their number.
        """
        if not self.spent:
            return None
        ahead = [
            None if cost is None else cost.flops
            for job, cost in zip(self.jobs[done:], self.costs[done:], strict=True)
            if self.state(job).status not in ("completed", "running")
        ]
        seconds = sum(seconds for seconds, _ in self.spent)
        flops = [item for _, item in self.spent]
        if None in flops or None in ahead:
            return seconds / len(self.spent) * len(ahead)
        return seconds * sum(filter(None, ahead)) / sum(filter(None, flops))


def study_work(name: str, overrides: Sequence[str], seeds: Sequence[int] | None) -> Work:
    """Compose and estimate every job of the study `name`, and read how its folder stands.

    Raises ConfigError where the study, an override or an arm is refused, CheckpointError where `study.json`
    is damaged.
    """
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
    costs: dict[str, Estimate | None] = {}
    for job in jobs:
        if job.arm not in costs:
            costs[job.arm] = _cost(study, job)
    return Work(study, jobs, folder, record, [costs[job.arm] for job in jobs])


def _cost(study: Study, job: StudyJob) -> Estimate | None:
    try:
        return estimate(job.experiment)
    except DataError:
        return None
    except ConfigError as error:
        if "would have to be fetched" not in str(error):
            raise ConfigError(f"study {study.name}, arm {job.arm}: {error}") from error
        return None


def _remember(folder: Path, record: StudyRecord) -> None:
    """Take over what the folder knows: how jobs ended, and those of other seeds."""
    if not is_study(folder):
        return
    old = read_study_record(folder)
    before = {(job.arm, job.seed): job for job in old.jobs}
    for job in record.jobs:
        known = before.pop((job.arm, job.seed), None)
        if known is not None and known.fingerprint == job.fingerprint:
            job.exit_status, job.said = known.exit_status, known.said
    record.jobs += [job for job in before.values() if old.arms.get(job.arm) == record.arms.get(job.arm)]
