"""The run folder: what is written while training, and how it is read back."""

from lmx.runs.files import write_atomic, write_json
from lmx.runs.folder import POINTER_VARIABLE, RunFolder, is_run
from lmx.runs.identity import STATUSES, command_line, config_fingerprint
from lmx.runs.metrics import MetricsLog
from lmx.runs.read import Run, find_runs, newest_unfinished, read_run

__all__ = [
    "POINTER_VARIABLE",
    "STATUSES",
    "MetricsLog",
    "Run",
    "RunFolder",
    "command_line",
    "config_fingerprint",
    "find_runs",
    "is_run",
    "newest_unfinished",
    "read_run",
    "write_atomic",
    "write_json",
]
