"""Typed schemas of every group, strict validation and the texts of errors. Imports no torch."""

from lmx.config.corpus import DataConfig, TokenizerConfig
from lmx.config.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LmxError,
    NonFiniteError,
    RankError,
    SpaceError,
    bad_choice,
    nearest,
)
from lmx.config.experiment import Experiment
from lmx.config.learning import (
    CheckpointConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from lmx.config.machine import HardwareConfig, PathsConfig
from lmx.config.model import ModelConfig

__all__ = [
    "CheckpointConfig",
    "CheckpointError",
    "ConfigError",
    "DataConfig",
    "DataError",
    "Experiment",
    "HardwareConfig",
    "LmxError",
    "ModelConfig",
    "NonFiniteError",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PathsConfig",
    "RankError",
    "ScheduleConfig",
    "SpaceError",
    "TokenizerConfig",
    "TrainConfig",
    "bad_choice",
    "nearest",
]
