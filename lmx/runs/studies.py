"""`study.json`: what a study's folder holds, and how each of its jobs stands."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lmx.config.errors import CheckpointError
from lmx.runs import lock
from lmx.runs.files import write_json
from lmx.runs.folder import RunFolder, is_run
from lmx.runs.read import Run

FILE = "study.json"
FORMAT = 1
SIGNALLED = (130, 138, 143)  # exit statuses of a process that SIGINT, SIGUSR1 or SIGTERM ended
JOB_STATUSES = ("completed", "running", "interrupted", "failed", "missing")
LOG = "log.txt"  # beside the run folders of a job: what its processes said


@dataclass
class JobRecord:
    """One job of a study: which run folders are its own, and how its last process ended."""

    arm: str
    seed: int
    fingerprint: str  # of its configuration
    exit_status: int | None = None  # None: not run yet
    said: str = ""  # the last line of a process that failed

    @property
    def place(self) -> str:
        """The folder of its runs, from the study's folder."""
        return f"{self.arm}/seed{self.seed}"


@dataclass
class StudyRecord:
    """The content of `study.json`: enough to render the study's report wherever the folder stands."""

    name: str
    question: str
    baseline: str
    metric: str
    arms: dict[str, list[str]]  # name → overrides
    command: str
    overrides: list[str] = field(default_factory=list)  # that the command gave to every job
    jobs: list[JobRecord] = field(default_factory=list)


@dataclass(frozen=True)
class JobState:
    """How a job stands, by its run folder and, where it has none, by its process."""

    job: JobRecord
    status: str  # one of JOB_STATUSES
    run: Path | None = None
    step: int | None = None  # the last one finished, where it was written down
    reason: str = ""
    others: tuple[Path, ...] = ()  # further runs of the same configuration, or of others, in its place


def write_study(folder: Path, record: StudyRecord) -> Path:
    """Write `study.json` into `folder`, which is made."""
    return write_json(folder / FILE, {"format": FORMAT, **asdict(record)})


def read_study_record(folder: str | Path) -> StudyRecord:
    """Return what `study.json` in `folder` says.

    Raises CheckpointError when it is missing, damaged or of another version.
    """
    path = Path(folder) / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = data.pop("format")
        if found != FORMAT:
            raise CheckpointError(f"{path}: got format {found}, allowed: {FORMAT}, this version of lmx's own")
        jobs = [JobRecord(**job) for job in data.pop("jobs")]
        return StudyRecord(**data, jobs=jobs)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def is_study(folder: Path) -> bool:
    """Whether `folder` is that of a study."""
    return (folder / FILE).is_file()


def states(folder: Path, record: StudyRecord) -> list[JobState]:
    """Return how each job stands."""
    return [job_state(folder, job) for job in record.jobs]


def job_state(folder: Path, job: JobRecord) -> JobState:
    """Return how a job stands: by its completed run, by one in training, or else by its newest."""
    place = folder / job.place
    paths = sorted(path for path in place.iterdir() if is_run(path)) if place.is_dir() else []
    own = [
        run for path in paths if (run := _heading(path)).identity.get("config_fingerprint") == job.fingerprint
    ]
    if not own:
        if job.exit_status in (None, 0):
            return JobState(job, "missing", others=tuple(paths))
        status = "interrupted" if job.exit_status in SIGNALLED else "failed"
        return JobState(job, status, reason=job.said, others=tuple(paths))
    ranks = {"completed": 2, "running": 1}
    run = max(own, key=lambda run: (ranks.get(run.status, 0), str(run.identity.get("started"))))
    sessions = run.identity.get("sessions") or [{}]
    return JobState(
        job,
        run.status,
        run.path,
        sessions[-1].get("step"),
        "" if run.status == "completed" else run.reason or "",
        tuple(path for path in paths if path != run.path),
    )


def _heading(path: Path) -> Run:
    """A run without its records; without an identity where that is missing or damaged."""
    try:
        identity = RunFolder(path).read_identity()
    except CheckpointError:
        identity = {}
    return Run(RunFolder(path), {}, identity, [], [], lock.held(path))
