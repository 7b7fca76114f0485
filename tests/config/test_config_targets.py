"""A `_target_` is code that will run: only what the allow-list holds may be named, at the top."""

from __future__ import annotations

import re
from typing import Any

import pytest
from config_helpers import changed

from lmx.config import ConfigError
from lmx.config.compose import compose
from lmx.config.targets import CALLBACKS, LOGGERS, OPTIMIZERS

FORBIDDEN = [
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.run",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "hydra._internal.instantiate._instantiate2._call_target",
    "torch.load",
    "lmx.optim.MuonX",
    "torch.optim.АdamW",  # a Cyrillic A
    "torch.optim.AdamW ",
    "torch.optim.AdamW.__init__",
    " torch.optim.AdamW",
    "",
    5,
    ["torch.optim.AdamW"],
    {"_target_": "torch.optim.AdamW"},
]


@pytest.mark.parametrize("target", FORBIDDEN, ids=repr)
@pytest.mark.parametrize("place", ["optimizer.update", "optimizer.rest", "callbacks.x", "logger.x"])
def test_what_is_not_in_the_list_is_refused(place: str, target: Any) -> None:
    entry = {"_target_": target, "lr": 1} if place == "optimizer.rest" else {"_target_": target}
    key = re.escape(f"{place}._target_")
    with pytest.raises(ConfigError, match=rf"^{key}: got .*, allowed: .*LMX_ALLOW_TARGETS=package.Class"):
        changed({place: entry})


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (
            {"_partial_": True},
            r"callbacks.x._partial_: got true, allowed: no key of Hydra's own beside _target_",
        ),
        ({"_args_": [1]}, r"callbacks.x._args_: got \[1\], allowed: no key of Hydra's own"),
        ({"_recursive_": False}, r"callbacks.x._recursive_: got false, allowed: no key"),
        (
            {"a": {"_target_": "os.system"}},
            "callbacks.x.a._target_: got 'os.system', allowed: only at the top of an entry",
        ),
        (
            {"a": [{"b": {"_target_": "os.system"}}]},
            "callbacks.x.a.0.b._target_: got 'os.system', allowed: only at the top",
        ),
        ({"a": {"_partial_": 1}}, "callbacks.x.a._partial_: got 1, allowed: no key of Hydra's own"),
    ],
)
def test_nothing_nested_and_no_other_word_of_hydra(entry: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        changed({"callbacks.x": {"_target_": CALLBACKS[0], **entry}})


def test_a_list_is_of_one_place() -> None:
    with pytest.raises(
        ConfigError, match=r"^callbacks.x._target_: got 'torch.optim.AdamW', allowed: lmx.training"
    ):
        changed({"callbacks.x": {"_target_": OPTIMIZERS[0]}})
    changed({"callbacks.x": {"_target_": CALLBACKS[-1]}, "logger.x": {"_target_": LOGGERS[-1]}})


def test_the_nearest_is_named() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'torch.optim.AdamW'\?"):
        compose(["optimizer.update._target_=torch.optim.AdamWW"])


def test_users_may_allow_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"got 'mine.Callback'"):
        changed({"callbacks.x": {"_target_": "mine.Callback"}})
    monkeypatch.setenv("LMX_ALLOW_TARGETS", "other.Thing, mine.Callback")
    assert changed({"callbacks.x": {"_target_": "mine.Callback"}}).callbacks["x"] == {
        "_target_": "mine.Callback"
    }
    with pytest.raises(ConfigError, match=r"got 'mine.Callbac'.*did you mean 'mine.Callback'"):
        changed({"callbacks.x": {"_target_": "mine.Callbac"}})


def test_a_configuration_cannot_widen_its_own_list() -> None:
    with pytest.raises(ConfigError, match="LMX_ALLOW_TARGETS"):
        compose(["+callbacks.x={_target_: os.system}", "+callbacks.LMX_ALLOW_TARGETS=os.system"])


@pytest.mark.parametrize(
    "line",
    [
        "+hydra.callbacks.x._target_=os.system",
        "+hydra.callbacks={x: {_target_: os.system}}",
        "+hydra.sweeper.x._target_=os.system",
        "+hydra.sweeper.x={_target_: os.system}",
        "hydra.sweeper._target_=os.system",
        "+hydra.job_logging.handlers.x.()=os.system",
        "hydra.job.chdir=true",
        "hydra.output_subdir=.hydra",
        "hydra.searchpath=[file:///tmp]",
    ],
)
def test_hydras_own_ways_to_run_code_or_write_are_closed(line: str) -> None:
    with pytest.raises(ConfigError, match=r"not a key of lmx, allowed of Hydra's own|not an override"):
        compose([line])
