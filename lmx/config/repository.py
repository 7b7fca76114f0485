"""Hydra's reader of configuration files, which parses no text twice."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource

# what each file was parsed to, beside the text it held then; pickled, for Hydra changes what it gets
_PARSED: dict[tuple[str, str, str], tuple[str, bytes]] = {}


class ParsedOnce(ConfigRepository):
    """Hydra's repository; half the time of a composition is parsing the files that the one before it read.

    A file that has changed is parsed again.
    """

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Return the parsed file, a copy of the caller's own; None where there is no such configuration."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        text = _text(source, config_path) if source else None
        if source is None or text is None:
            return super().load_config(config_path)
        key = (source.provider, source.path, config_path)
        known = _PARSED.get(key)
        if known is None or known[0] != text:
            parsed = pickle.dumps(super().load_config(config_path))
            known = _PARSED[key] = (text, parsed)
        result: ConfigResult = pickle.loads(known[1])
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> ParsedOnce:
        """Return a copy whose list of sources may be replaced, which is what Hydra copies it for."""
        return copy.copy(self)


def _text(source: ConfigSource, config_path: str) -> str | None:
    """Return what a file of configuration holds, None for a configuration that is no file."""
    if source.scheme() == "pkg":
        return ""  # a part of Hydra, which does not change
    if source.scheme() == "file":
        return (Path(source.path) / source._normalize_file_name(config_path)).read_text(encoding="utf-8")
    return None
