"""Random override lines, built as training would: refused in one line or harmless, and no code but ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tally import Tally
from test_config_fuzz import check_text, lines, quick, values
from torch import nn

from lmx.config import ConfigError, Experiment
from lmx.config.compose import compose
from lmx.config.targets import CALLBACKS, LOGGERS, OPTIMIZERS
from lmx.optim import build_optimizer
from lmx.training.trainer import build_callbacks, check_loggers

# importing it, or calling anything in it, leaves a file
PLANTED = """
from pathlib import Path
Path({mark!r}).touch()
from lightning.pytorch import Callback
class Thing(Callback):
    def __init__(self, *arguments, **options):
        Path({mark!r}).touch()
class Other:
    pass
"""
FORBIDDEN = (
    *(
        "forbidden_plant.Thing",
        "forbidden_plant",
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "pathlib.Path.touch",
    ),
    *("torch.load", "lmx.training.fit.train", "lightning.pytorch.callbacks.LambdaCallback", "torch.optim"),
    *("torch.optim.AdamW.__init__", "lmx.optim.build.importlib.import_module", "hydra.utils.instantiate"),
)
places = st.sampled_from(
    [
        *("callbacks.x", "callbacks.samples", "logger.x", "logger.tensorboard", "optimizer.update"),
        *("optimizer.rest", "callbacks.samples.prompts", "callbacks.throughput", "callbacks.x.y"),
    ]
)
targets = st.sampled_from((*FORBIDDEN, *FORBIDDEN, *CALLBACKS, *LOGGERS, *OPTIMIZERS))
# what an option is called: those of the classes on the list, and what Hydra gives a meaning
options = st.sampled_from(
    [
        *("_target_", "_args_", "_partial_", "_recursive_", "_convert_", "prompts", "max_new_tokens"),
        *("seed", "alpha", "gamma", "by_group", "save_dir", "name", "version", "prefix", "betas", "eps"),
        *("fused", "momentum", "lr", "patience", "monitor", "min_delta", "temperature", "swa_lrs", "params"),
    ]
)


@st.composite
def entries(draw: st.DrawFn) -> str:
    """An override of what classes are named, or of their options."""
    sign, place = draw(st.sampled_from(["", "+", "++"])), draw(places)
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return f"{sign}{place}._target_={draw(targets)}"
    if kind == 1:
        return f"{sign}{place}={{_target_: {draw(targets)}, {draw(options)}: {draw(values)}}}"
    if kind == 2:
        return f"{sign}{place}=[{{_target_: {draw(targets)}}}]"
    return f"{sign}{place}.{draw(options)}={draw(values)}"


class Net(nn.Module):
    """As much of a decoder as an optimizer sees."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 2)
        self.blocks = nn.ModuleList([nn.Linear(2, 2)])


def build(overrides: list[str]) -> Experiment:
    """Compose, and build every object that a configuration may name."""
    experiment = compose(overrides)
    build_callbacks(experiment)
    check_loggers(experiment)
    build_optimizer(Net(), experiment.optimizer)
    return experiment


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that forbidden code would leave; the working folder is an empty one."""
    place = tmp_path_factory.mktemp("planted")
    path, before = place / "ran", Path.cwd()
    (place / "forbidden_plant.py").write_text(PLANTED.format(mark=str(path)))
    sys.path.insert(0, str(place))
    os.chdir(tmp_path_factory.mktemp("empty"))
    yield path
    os.chdir(before)
    sys.path.remove(str(place))
    sys.modules.pop("forbidden_plant", None)


def attempt(overrides: list[str], mark: Path) -> None:
    try:
        build(overrides)
    except ConfigError as error:
        check_text(str(error))
    assert not mark.exists(), "forbidden code ran"
    assert "forbidden_plant" not in sys.modules
    assert os.listdir() == []


mixed = st.lists(st.one_of(entries(), entries(), lines), min_size=1, max_size=3)


@settings(quick, max_examples=25)
@given(overrides=mixed)
def test_what_is_built_is_on_the_list(overrides: list[str], mark: Path) -> None:
    attempt(overrides, mark)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@settings(quick, max_examples=1000, derandomize=False)
@given(overrides=mixed)
def test_what_is_built_many_times(overrides: list[str], mark: Path, tally: Tally) -> None:
    tally.count("override lines", "composed and built", len(overrides), 0)
    attempt(overrides, mark)
    tally.count("override lines", "composed and built", 0, len(overrides))


@pytest.mark.parametrize("place", ["callbacks", "logger", "optimizer.update"])
def test_a_forbidden_target_is_named_and_never_imported(place: str, mark: Path) -> None:
    if place == "optimizer.update":
        keys, lines = [place] * 2, [f"{place}._target_={target}" for target in FORBIDDEN[:2]]
        runs = [[line] for line in lines]
    else:
        keys = [f"{place}.x{number}" for number in range(len(FORBIDDEN))]
        runs = [[f"+{key}._target_={target}" for key, target in zip(keys, FORBIDDEN, strict=True)]]
    said = ""
    for overrides in runs:
        attempt(overrides, mark)
        with pytest.raises(ConfigError) as caught:
            build(overrides)
        said += f"; {caught.value}"
    for key, target in zip(keys, FORBIDDEN, strict=False):
        assert f"; {key}._target_: got '{target}', allowed: " in said


def test_the_plant_works(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it allowed, it would leave its mark."""
    monkeypatch.setenv("LMX_ALLOW_TARGETS", "forbidden_plant.Thing")
    build(["+callbacks.x._target_=forbidden_plant.Thing"])
    assert mark.exists()
    mark.unlink()
    monkeypatch.setenv("LMX_ALLOW_TARGETS", "forbidden_plant.Other")
    with pytest.raises(
        ConfigError, match=r"^callbacks.x._target_: got 'forbidden_plant.Other', allowed: a subcl"
    ):
        build(["+callbacks.x._target_=forbidden_plant.Other"])
    sys.modules.pop("forbidden_plant")
