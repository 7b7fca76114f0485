"""What Hydra and OmegaConf refuse, said in one line: key, what was got, what is allowed, the nearest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmx.config.errors import nearest
from lmx.config.fields import unknown_name
from lmx.config.overrides import is_choice, parse

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
# beside its own, Hydra lets through what a strange override does to its insides
COMPOSITION_ERRORS = (
    *HYDRA_ERRORS,
    AssertionError,
    AttributeError,
    RecursionError,
    TypeError,
    ValueError,
)
_REWORDED = (
    (
        r"Multiple values for (\S+?)\. To override a value use 'override \S+ (\S+)'.*",
        r"+\1: one is chosen already, allowed: \1=\2",
    ),
    (
        r"force-add of config groups is not supported: '\+\+([^=]+)=(.*)'",
        r"++\1: one is chosen already, allowed: \1=\2",
    ),
    (
        r"Could not append to config\. An item is already at '(\S+?)'\..*",
        r"+\1: is there already, allowed: \1=value",
    ),
    (
        r"Could not override '(\S+?)'\. No match in the defaults list\..*",
        r"\1: not chosen in this configuration, allowed: +\1=NAME",
    ),
    (
        r"Could not delete from config\. The value of '(\S+?)' is (.*) and not (.*)\.",
        r"~\1: got \3, allowed: ~\1 (its value is \2)",
    ),
    (r"Could not delete '(\S+?)'\..*", r"~\1: not chosen in this configuration"),
)


def explain(
    error: BaseException,
    loader: ConfigLoaderImpl,
    config_name: str,
    overrides: Sequence[str],
    groups: Sequence[str],
) -> str:
    """Say in one line why Hydra could not compose `overrides`: each that does not fit, or its own reason."""
    found = loader.repository.get_group_options("", ObjectType.CONFIG)
    top = [name for name in found if name not in ("schema", "hydra", "_dummy_empty_config_")]
    if config_name not in top:
        return f"--config-name: got {config_name!r}, allowed: {', '.join(top)}{nearest(config_name, top)}"
    values = [override for override in parse(overrides) if not is_choice(override, groups)]
    lines = {override.input_line for override in values}
    choices = [line for line in overrides if line not in lines]
    try:
        base = OmegaConf.to_container(loader.load_configuration(config_name, choices, run_mode=RunMode.RUN))
    except COMPOSITION_ERRORS:
        return one_line(error)
    problems = [problem for override in values for problem in _misfits(override, base)]
    return "; ".join(problems) or one_line(error)


def one_line(error: BaseException) -> str:
    """Say in one line what Hydra or OmegaConf refused, without knowing more than its message."""
    if (options := getattr(error, "options", None)) is not None:
        group, _, name = str(getattr(error, "missing_cfg_file", "")).rpartition("/")
        names = [option for option in options if option != "schema"]
        return f"{group or 'configuration'}: got {name!r}, allowed: {', '.join(names)}{nearest(name, names)}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(error) if str(error).strip() else type(error).__name__
    if isinstance(error, RecursionError) or "RecursionError" in f"{text} {cause}":
        return "the overrides are nested too deeply"
    if isinstance(cause, OmegaConfBaseException):
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        key = getattr(cause, "full_key", None)
        text = f"{key}: {reason}" if key else f"{text}: {reason}" if cause is not error else reason
    text = " ".join(text.split("See https://")[0].split("Config search path:")[0].split())
    for pattern, words in _REWORDED:
        if re.fullmatch(pattern, text):
            return re.sub(pattern, words, text)
    return text


def _misfits(override: Override, base: Any) -> Iterator[str]:
    """Yield a line when a key is not in the composition that the choices of groups alone make."""
    parts = override.key_or_group.split(".")
    node = base
    for depth, part in enumerate(parts, start=1):
        above, place = ".".join(parts[: depth - 1]), ".".join(parts[:depth])
        if node is None and not override.is_delete():
            yield f"{override.key_or_group}: {above} is null in this composition, and has no keys to set"
        if not isinstance(node, dict):
            return
        if part not in node:
            names = [str(name) for name in node]
            if override.is_delete():
                yield unknown_name(f"~{place}", names, "not in this composition")
            elif not override.is_add() and not override.is_force_add():
                note = f" (+{override.input_line} adds it)" if depth == len(parts) else ""
                yield unknown_name(place, names, f"not in this composition{note}")
            return
        node = node[part]
