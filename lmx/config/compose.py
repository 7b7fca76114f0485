"""Where the configuration files are, how they are composed, and how Hydra's refusals become one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lmx.config.errors import ConfigError, nearest
from lmx.config.experiment import GROUPS, Experiment
from lmx.config.validate import describe, validate

ROOT = "train"


def config_dir() -> Path:
    """Return the folder of YAML files: packaged beside the code in a wheel, at the top level in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def register_schemas() -> None:
    """Register every group's dataclass with Hydra as `<group>/schema`, and the experiment as `schema`."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Experiment)
    for group, schema in GROUPS.items():
        store.store(group=group, name="schema", node=schema)


def compose(overrides: Sequence[str] = ()) -> Experiment:
    """Compose and validate an experiment from Hydra overrides, as the command line does.

    Raises ConfigError for whatever cannot be composed or does not fit together.
    """
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = translated(lambda: hydra_compose(ROOT, list(overrides)))
    return validate(config, given_keys(overrides))


def given_keys(overrides: Iterable[str]) -> list[str]:
    """Return the dotted keys that overrides set to a value (not the choices of a group)."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [item.key_or_group for item in parsed if not item.is_delete() and "." in item.key_or_group]


def translated(action: Callable[[], DictConfig]) -> DictConfig:
    """Run a composition; re-raise what Hydra and OmegaConf refuse as one ConfigError of one line."""
    try:
        return action()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Say in one line what was wrong with an override: key, what was got, allowed, nearest valid name."""
    cause = error.__cause__
    omega = error if isinstance(error, OmegaConfBaseException) else cause
    if isinstance(omega, OmegaConfBaseException):
        return _key_error(omega)
    missing = getattr(error, "missing_cfg_file", None)
    options = getattr(error, "options", None)
    if missing and options is not None:
        group, _, name = str(missing).rpartition("/")
        names = [option for option in options if option != "schema"]
        return f"{group or 'config'}: got {name!r}, allowed: {', '.join(names)}{nearest(name, names)}"
    text = " ".join(str(error).split())
    group = text.split("'")[1] if text.startswith("Could not override '") else ""
    if group:
        return f"{group}: unknown key or group{nearest(group, known_keys())}"
    return text


def known_keys() -> list[str]:
    """Return every dotted key of the schemas and every group name."""
    import dataclasses

    keys = [spec.name for spec in dataclasses.fields(Experiment)]
    for section in dataclasses.fields(Experiment):
        schema = section.default_factory
        if isinstance(schema, type) and dataclasses.is_dataclass(schema):
            keys += [f"{section.name}.{spec.name}" for spec in dataclasses.fields(schema)]
    return [*keys, "experiment", "debug"]


def _key_error(error: OmegaConfBaseException) -> str:
    key = error.full_key or ""
    text = describe(error)
    if "not in" in text.lower() or "not a valid" in text.lower():
        return f"{key}: unknown key{nearest(key, known_keys())}"
    return text


__all__ = ["ConfigError", "Override", "compose", "config_dir", "given_keys", "register_schemas", "translated"]
