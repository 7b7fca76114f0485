"""The way from a command line through Hydra to a task: one run, a sweep, or a look at the configuration."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from string import Template
from typing import Any, NoReturn, Protocol

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import _run_hydra
from hydra.main import get_args_parser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lmx import __version__
from lmx.config.compose import (
    ROOT,
    check,
    compose,
    config_dir,
    config_loader,
    experiment_of,
    group_names,
    load,
    options,
)
from lmx.config.door import guarded, refusal
from lmx.config.errors import ConfigError
from lmx.config.experiment import Experiment
from lmx.config.fields import unknown_name
from lmx.config.overrides import parse
from lmx.config.refusals import COMPOSITION_ERRORS, HYDRA_ERRORS, one_line

Task = Callable[[Experiment, list[str]], int]
WIDTH = 100  # columns of the help


class SweepLauncher(Protocol):
    """What Hydra calls for each job of a sweep; made of the module and the flags of the command."""

    def __init__(self, module: str, flags: list[str]) -> None: ...

    def __call__(self, config: DictConfig) -> float:
        """Run the job that Hydra has composed; return the figure that a sweeper may optimise."""

    def close(self) -> int:
        """Report all jobs; return the exit status of the sweep."""


def hydra_door(
    task: Task, *, module: str, launcher: type[SweepLauncher], argv: Sequence[str] | None = None
) -> int:
    """Run `task(experiment, overrides)` for a command line in Hydra's grammar; return the exit status.

    Everything is composed and validated before the task runs; what is refused becomes one line on standard
    error and status 2. `--help`, `--cfg`, `--info`, `--multirun` and the other flags are Hydra's own.
    Nothing is written: no log, no `.hydra`, no folder but that of a sweep.

    `module` is the name of the command under `python -m`; `launcher` runs the jobs of a sweep.
    """
    return guarded(lambda: _open(task, module, launcher, argv))


def _open(task: Task, module: str, launcher: type[SweepLauncher], argv: Sequence[str] | None) -> int:
    parser = _parser()
    args = parser.parse_intermixed_args(argv)
    _check_flags(args)
    loader = config_loader(args.config_dir)
    place = {"config_name": args.config_name or ROOT, "folder": args.config_dir}
    flags = [
        "--config-name",
        place["config_name"],
        *(["--config-dir", args.config_dir] if args.config_dir else []),
    ]
    jobs = launcher(module, flags)
    if args.shell_completion:
        return _through_hydra(args, parser, jobs)
    check(args.overrides, loader, sweep=args.multirun)
    if args.help:
        print(_help(load(args.overrides, hydra_overrides=["hydra/help=lmx"], **place), loader))
        return 0
    if args.package:
        _check_package(args.package, load(args.overrides, **place))
    if args.cfg or args.info or args.hydra_help:
        return _through_hydra(args, parser, jobs)
    lines = parse(args.overrides)
    config = load([str(line.input_line) for line in lines if not line.is_sweep_override()], **place)
    a_sweep = args.multirun or config.hydra.mode == RunMode.MULTIRUN  # a file may say so by itself
    if args.run or not a_sweep:
        overrides = [str(line.input_line) for line in lines if not line.is_hydra_override()]
        return task(experiment_of(config, overrides), overrides)
    args.multirun = True
    _check_jobs(args.overrides, config, place)
    return _through_hydra(args, parser, jobs)


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that say nothing together, which Hydra would ignore or stumble over."""
    if args.run and args.multirun:
        raise ConfigError("--run: got --multirun beside it, allowed: one of them")
    if args.resolve and not args.cfg:
        raise ConfigError("--resolve: got no --cfg beside it, allowed: --cfg job --resolve")
    if args.package and not args.cfg:
        raise ConfigError("--package: got no --cfg beside it, allowed: --cfg job --package SECTION")


def _check_jobs(overrides: list[str], config: DictConfig, place: dict[str, Any]) -> None:
    """Compose and validate every job of a sweep, where its sweeper knows them beforehand."""
    if config.hydra.callbacks:
        raise ConfigError(f"hydra.callbacks: got {', '.join(config.hydra.callbacks)}, allowed: none")
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    swept = [line for line in parse([*params, *overrides]) if not line.is_hydra_override()]
    for number, job in enumerate(BasicSweeper.split_arguments(swept, None)[0]):
        try:
            compose(job, **place)
        except ConfigError as error:
            raise ConfigError(f"job {number} ({' '.join(job)}): {error}") from error


def _through_hydra(args: argparse.Namespace, parser: argparse.ArgumentParser, launcher: SweepLauncher) -> int:
    """Let Hydra do what the flags say: print, or run a sweep."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # it raises then, and leaves the words to us
    try:
        _run_hydra(args, parser, launcher, config_path=str(config_dir()), config_name=ROOT)
    except COMPOSITION_ERRORS as error:
        if args.multirun and not isinstance(error, HYDRA_ERRORS):
            raise  # from a job: a fault and no refusal
        raise ConfigError(one_line(error)) from error
    except SystemExit as leaving:
        return int(leaving.code or 0)
    finally:
        status = launcher.close()
    return status


def _parser() -> argparse.ArgumentParser:
    """Return Hydra's parser, with refusals of one line and without what would run code or hide our files."""
    parser = get_args_parser()

    def error(message: str) -> NoReturn:
        raise ConfigError(refusal(parser, message))

    parser.error = error  # type: ignore[method-assign]
    for action in parser._actions:
        if action.dest in ("experimental_rerun", "config_path"):
            action.type = _refuse(action.option_strings[0])
        if isinstance(action, argparse._VersionAction):
            action.version = f"lmx {__version__} ({action.version})"
    return parser


def _refuse(option: str) -> Callable[[str], NoReturn]:
    def refuse(value: str) -> NoReturn:
        raise ConfigError(f"{option}: got {value!r}, allowed: --config-dir DIR, which adds a folder")

    return refuse


def _check_package(package: str, config: DictConfig) -> None:
    node: Any = OmegaConf.to_container(config)
    place = ""
    for part in package.split(".") if package != "_global_" else ():
        place = f"{place}.{part}".lstrip(".")
        if not isinstance(node, dict) or part not in node:
            names = list(node) if isinstance(node, dict) else []
            raise ConfigError(unknown_name(place, names, "not in this composition"))
        node = node[part]


def _help(config: DictConfig, loader: ConfigLoaderImpl) -> str:
    """Fill in `hydra.help.template` as Hydra does, with groups that are easier on the eye."""
    choices = config.hydra.runtime.choices
    groups = []
    for group in group_names(loader):
        names = [f"[{name}]" if name == choices.get(group) else name for name in options(loader, group)]
        if names:
            groups += _wrapped(f"  {group:<11}", names)
    text = Template(str(config.hydra.help.template)).safe_substitute(APP_CONFIG_GROUPS="\n".join(groups))
    return "\n\n".join(_in_columns(paragraph) for paragraph in text.split("\n\n"))


def _wrapped(head: str, words: list[str]) -> list[str]:
    lines = [head]
    for word in words:
        if len(lines[-1]) + len(word) + 1 > WIDTH:
            lines.append(" " * len(head))
        lines[-1] += f" {word}"
    return lines


def _in_columns(paragraph: str) -> str:
    """Align what stands before and after ` | ` in each line."""
    rows = [line.partition(" | ") for line in paragraph.splitlines()]
    width = max((len(left) for left, bar, _ in rows if bar), default=0)
    return "\n".join(f"{left:<{width}}  {right}" if right else left for left, _, right in rows)
