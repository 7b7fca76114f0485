"""Where the configuration files are, how they are composed, and how Hydra's refusals become one line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lmx.config.errors import ConfigError
from lmx.config.experiment import GROUPS, Experiment
from lmx.config.fields import schema_defaults
from lmx.config.keys import PRESET_GROUPS
from lmx.config.overrides import check_overrides, given_keys
from lmx.config.refusals import COMPOSITION_ERRORS, explain
from lmx.config.repository import ParsedOnce
from lmx.config.validate import validate

ROOT = "train"


def config_dir() -> Path:
    """Return the folder of YAML files: beside the code in a wheel, at the top level in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


@cache
def register_schemas() -> None:
    """Register the fields and defaults of each group's dataclass with Hydra as `<group>/schema`.

    They are registered without their types: Hydra would stop at the first value of a wrong one, and
    convert some silently. `validate` checks them, all at once.
    """
    version.setbase("1.3")
    setup_globals()
    store = ConfigStore.instance()
    store.store(name="schema", node=schema_defaults(Experiment, without=GROUPS))
    for group, schema in GROUPS.items():
        store.store(group=group, name="schema", node=schema_defaults(schema))


def compose(
    overrides: Sequence[str] = (), *, config_name: str = ROOT, folder: str | None = None
) -> Experiment:
    """Compose and validate an experiment from Hydra overrides, as the command line does.

    `folder` holds further configurations, beside lmx's own; `config_name` names the file to start from.

    Raises ConfigError for whatever cannot be composed or does not fit together.
    """
    return experiment_of(load(overrides, config_name=config_name, folder=folder), overrides)


def load(
    overrides: Sequence[str] = (),
    *,
    config_name: str = ROOT,
    folder: str | None = None,
    hydra_overrides: Sequence[str] = (),
) -> DictConfig:
    """Compose without validating; the result also holds Hydra's own settings, as `hydra`.

    `hydra_overrides` are lmx's own words to Hydra, beside the user's.

    Raises ConfigError for an override, file or option that does not exist.
    """
    loader = config_loader(folder)
    check(overrides, loader)
    try:
        return loader.load_configuration(config_name, [*overrides, *hydra_overrides], run_mode=RunMode.RUN)
    except COMPOSITION_ERRORS as error:
        raise ConfigError(explain(error, loader, config_name, overrides, group_names(loader))) from error


def experiment_of(config: DictConfig, overrides: Sequence[str]) -> Experiment:
    """Validate what `load` composed of `overrides`."""
    keys: list[Any] = [key for key in config if key != "hydra"]
    own = OmegaConf.masked_copy(config, keys)
    return validate(own, given_keys(overrides))


def check(overrides: Sequence[str], loader: ConfigLoaderImpl, *, sweep: bool = False) -> None:
    """Check each override against the keys and options there are; raises ConfigError."""
    check_overrides(overrides, group_names(loader), lambda group: options(loader, group), sweep=sweep)


def config_loader(folder: str | None = None) -> ConfigLoaderImpl:
    """Return Hydra's reader of lmx's configurations and of those in `folder`.

    Raises ConfigError when there is no such folder, or when a file in it has the place of one of lmx's own,
    which Hydra would take instead without a word.
    """
    register_schemas()
    search_path = create_config_search_path(str(config_dir()))
    if folder is not None:
        path = Path(folder).expanduser().absolute()
        if not path.is_dir():
            raise ConfigError(f"--config-dir: got {folder!r}, allowed: a folder of configurations")
        for name in (file.relative_to(config_dir()) for file in sorted(config_dir().rglob("*.yaml"))):
            if (path / name).exists():
                raise ConfigError(
                    f"--config-dir: got {name} in {folder!r}, a name that lmx has, allowed: others"
                )
        search_path.prepend("command-line", f"file://{path}", SearchPathQuery(provider="schema"))
    loader = ConfigLoaderImpl(config_search_path=search_path)
    loader.repository = ParsedOnce(search_path)
    return loader


def group_names(loader: ConfigLoaderImpl) -> list[str]:
    """Return the groups one can choose from, those of lmx first."""
    found = [
        name
        for name in loader.repository.get_group_options("", ObjectType.GROUP)
        if name not in ("hydra", "study")
    ]
    return list(dict.fromkeys([*GROUPS, "callbacks", "logger", *PRESET_GROUPS, *found]))


def options(loader: ConfigLoaderImpl, group: str) -> list[str]:
    """Return the names of a group's options, those in its folders as `folder/name`, without the schema."""
    # the loader's own method of this name copies the whole repository at each call
    repository = loader.repository
    found = [name for name in repository.get_group_options(group, ObjectType.CONFIG) if name != "schema"]
    for inner in repository.get_group_options(group, ObjectType.GROUP):
        found += [f"{inner}/{name}" for name in options(loader, f"{group}/{inner}")]
    return found
