"""What every command has in common: errors in one line, exit statuses, and its parser."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from lmx.config.errors import ConfigError, LmxError, SpaceError, disk_full, nearest

DEBUG_VARIABLE = "LMX_DEBUG"  # 1: show the traceback of an error that is the user's to mend
INTERRUPTED = 130  # 128 + SIGINT


def guarded(action: Callable[[], int]) -> int:
    """Run a command; return its exit status.

    An LmxError becomes one line on standard error and its own status, an interruption 130; both show their
    traceback where LMX_DEBUG=1. A reader that closes the pipe early ends the command without a word.
    """
    try:
        status = action()
        sys.stdout.flush()
        return status
    except LmxError as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        print(f"lmx: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        print("lmx: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at exit
        return 0
    except Exception as error:
        full = disk_full(error)  # met by a library that writes
        if full is None or os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        place = f"{full.filename}: " if full.filename else ""
        print(f"lmx: {place}cannot be written, the disk is full ({full.strerror})", file=sys.stderr)
        return SpaceError.exit_status


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are ConfigErrors of one line, with the nearest option there is."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise ConfigError(refusal(self, message))


def refusal(parser: argparse.ArgumentParser, message: str) -> str:
    """Return argparse's refusal in one line; where the option does not exist, with the nearest that does."""
    text = f"{message}{'' if message.endswith('.') else ';'} --help says what is allowed"
    prefix = "unrecognized arguments: "
    if not message.startswith(prefix):
        return text
    got = message.removeprefix(prefix)
    options = [option for action in parser._actions for option in action.option_strings]
    near = nearest(got.split()[0].split("=")[0], [option for option in options if option.startswith("--")])
    return f"{got}: unknown option{near or '; --help says what is allowed'}"
