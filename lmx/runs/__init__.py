"""The run folder: what is written while training, and how it is read back."""

from lmx.runs.digest import Digest, is_evaluated, read_digest
from lmx.runs.files import write_atomic, write_json
from lmx.runs.folder import POINTER_VARIABLE, RunFolder, is_run
from lmx.runs.identity import STATUSES, command_line, config_fingerprint
from lmx.runs.metrics import MetricsLog
from lmx.runs.read import Run, find_runs, named_runs, newest_unfinished, read_run
from lmx.runs.studies import (
    JobRecord,
    JobState,
    StudyRecord,
    is_study,
    read_study_record,
    states,
    write_study,
)
from lmx.runs.windows import WindowRecord, read_windows, write_windows

__all__ = [
    "POINTER_VARIABLE",
    "STATUSES",
    "Digest",
    "JobRecord",
    "JobState",
    "MetricsLog",
    "Run",
    "RunFolder",
    "StudyRecord",
    "WindowRecord",
    "command_line",
    "config_fingerprint",
    "find_runs",
    "is_evaluated",
    "is_run",
    "is_study",
    "named_runs",
    "newest_unfinished",
    "read_digest",
    "read_run",
    "read_study_record",
    "read_windows",
    "states",
    "write_atomic",
    "write_json",
    "write_study",
    "write_windows",
]
