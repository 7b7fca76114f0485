"""The command line as a user meets it: Hydra's flags, one line for every refusal, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_helpers import command, environment

from lmx.config import ConfigError, LmxError, NonFiniteError
from lmx.config.compose import compose
from lmx.config.door import Parser, guarded
from lmx.config.entry import hydra_door
from lmx.config.validate import to_dict, validate
from lmx.launch import ProcessLauncher


def no_task(experiment: Any, overrides: list[str]) -> int:
    raise AssertionError("the task must not be reached")


def door(*arguments: str, task: Any = no_task) -> int:
    return hydra_door(task, module="lmx.train", launcher=ProcessLauncher, argv=arguments)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_task_gets_a_validated_experiment_and_its_overrides(here: Path) -> None:
    got: list[Any] = []

    def task(experiment: Any, overrides: list[str]) -> int:
        got.extend([experiment, overrides])
        return 5

    assert door("model=llama_tiny", "seed=3", "hydra.sweep.dir=x", task=task) == 5
    assert got == [compose(["model=llama_tiny", "seed=3"]), ["model=llama_tiny", "seed=3"]]
    assert list(here.iterdir()) == []


def test_help_shows_groups_keys_and_how_to_get_more(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert door("--help", "model=rope_4l") == 0
    text = capsys.readouterr().out
    assert "gpt2_small llama_tiny [rope_4l] rope_mini" in " ".join(text.split())
    assert "schema" not in text
    assert "$" not in text
    for key in ("train.horizon", "train.batch_size", "data.sequence_length", "seed", "resume", "init_from"):
        assert f"\n  {key}=" in text
    assert max(map(len, text.splitlines())) <= 105
    assert list(here.iterdir()) == []


def test_the_values_in_help_are_those_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    door("--help", "seed=12345", "train.horizon=77steps")
    text = capsys.readouterr().out
    assert "seed=12345" in text
    assert "train.horizon=77steps" in text


def test_the_configuration_printed_is_the_one_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert door("--cfg", "job", "--resolve", "data=wikitext2", "optimizer=muon") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert validate(printed) == compose(["data=wikitext2", "optimizer=muon"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cfg", "job", "-p", "model"], "# @package model\nname: tiny"),
        (["--cfg", "job", "-p", "model.hidden_size"], "128"),
        (["--cfg", "hydra"], "hydra:"),
        (["--info", "defaults"], "Defaults List"),
        (["--info", "defaults-tree", "experiment=wikitext2_cpu"], "experiment: wikitext2_cpu"),
        (["--info", "searchpath"], "Config search path"),
        (["--info", "plugins"], "Installed Hydra Plugins"),
        (["--hydra-help"], "== Flags =="),
    ],
)
def test_hydras_own_flags(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert door(*arguments) == 0
    assert words in capsys.readouterr().out
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["model.hiden_size=1"], "lmx: model.hiden_size: unknown key; did you mean 'model.hidden_size'?"),
        (["--cfg", "job", "-p", "modle"], "lmx: modle: not in this composition; did you mean 'model'?"),
        (["--cfg", "job", "sed=1"], "lmx: sed: unknown key; did you mean 'seed'?"),
        (["--help", "sed=1"], "lmx: sed: unknown key; did you mean 'seed'?"),
        (["--conifg-dir", "x"], "lmx: --conifg-dir: unknown option; did you mean '--config-dir'?"),
        (
            ["--config-path", "/x"],
            "lmx: --config-path: got '/x', allowed: --config-dir DIR, which adds a folder",
        ),
        (
            ["--experimental-rerun", "x"],
            "lmx: --experimental-rerun: got 'x', allowed: --config-dir DIR, which adds a folder",
        ),
        (["--config-name", "x"], "lmx: --config-name: got 'x', allowed: train"),
        (["--resolve"], "lmx: --resolve: got no --cfg beside it, allowed: --cfg job --resolve"),
        (["--package", "x"], "lmx: --package: got no --cfg beside it, allowed: --cfg job --package SECTION"),
        (["--run", "-m", "seed=1"], "lmx: --run: got --multirun beside it, allowed: one of them"),
        (["-m", "model.hiden=1,2"], "lmx: model.hiden: unknown key; did you mean 'model.hidden_size'?"),
        (
            ["-m", "train=1,2"],
            "lmx: job 0 (train=1): train: got 1, allowed: a group of keys, such as train.horizon",
        ),
        (
            ["-m", "seed=1,2", "train.batch_size=8,0"],
            "lmx: job 1 (seed=1 train.batch_size=0): train.batch_size: got 0, allowed: ≥ 1",
        ),
        (
            ["-m", "model.position=rope,none", "model.rope_theta=2"],
            "lmx: job 1 (model.position=none model.rope_theta=2): model.rope_theta: got 2.0, which has "
            "no effect "
            "with model.position=none; leave it out",
        ),
    ],
)
def test_a_refusal_is_one_line_and_status_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert door(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.err == f"{line}\n"
    assert printed.out == ""
    assert list(here.iterdir()) == []


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """No traceback, no folder, no heavy import; one process each is enough, the rest is tested above."""
    here = tmp_path / "here"
    here.mkdir()
    done = command("seed=4", "model=llama_tiny", cwd=here)
    got = ["storyworld_llama_tiny", 4, ["seed=4", "model=llama_tiny"], []]
    assert json.loads(done.stdout.removeprefix("GOT ")) == got
    done = command("sed=4", cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "lmx: sed: unknown key; did you mean 'seed'?\n",
    )
    done = command("sed=4", cwd=here, LMX_DEBUG="1")
    assert "Traceback" in done.stderr
    done = command("--help", cwd=here, module="lmx.train")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: python -m lmx.train" in done.stdout
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--info", "defaults"]])
def test_looking_imports_no_torch(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys, runpy; sys.argv = ['train', *sys.argv[1:]]\n"
        "try: runpy.run_module('lmx.train', run_name='__main__')\n"
        "except SystemExit as leaving: assert not leaving.code, leaving.code\n"
        "print('HEAVY', [n for n in ('torch', 'numpy', 'lightning', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.endswith("HEAVY []\n"), done.stdout[-300:] + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "lmx.train", "--cfg", "all"],
        cwd=here,
        env=environment(here),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


def test_statuses_of_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: BaseException) -> int:
        def action() -> int:
            raise error

        return guarded(action)

    assert guarded(lambda: 4) == 4
    assert fails(ConfigError("a\nb")) == 2
    assert capsys.readouterr().err == "lmx: a b\n"
    assert fails(NonFiniteError("x")) == 3
    assert fails(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "lmx: x\nlmx: interrupted\n"
    with pytest.raises(ValueError, match="a bug"):
        fails(ValueError("a bug"))
    monkeypatch.setenv("LMX_DEBUG", "1")
    with pytest.raises(LmxError, match="x"):
        fails(NonFiniteError("x"))


def test_a_parser_refuses_in_one_line() -> None:
    parser = Parser(prog="x", allow_abbrev=False)
    parser.add_argument("--prompt")
    parser.add_argument("--number", type=int)
    with pytest.raises(ConfigError, match=r"^--promt: unknown option; did you mean '--prompt'\?$"):
        parser.parse_args(["--promt"])
    with pytest.raises(
        ConfigError, match=r"^argument --number: invalid int value: 'a'; --help says what is allowed$"
    ):
        parser.parse_args(["--number", "a"])


def test_a_fault_of_the_task_is_not_dressed_up(here: Path) -> None:
    def task(experiment: Any, overrides: list[str]) -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        door(task=task)


def test_the_saved_configuration_is_one_to_start_from(here: Path) -> None:
    experiment = compose(["model=llama_tiny", "seed=8"])
    (here / "config.yaml").write_text(yaml.safe_dump(to_dict(experiment)))
    got: list[Any] = []
    door(
        "--config-dir", str(here), "--config-name", "config", task=lambda found, lines: got.append(found) or 0
    )
    assert got == [experiment]
    assert os.listdir(here) == ["config.yaml"]
