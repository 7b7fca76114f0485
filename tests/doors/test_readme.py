"""Every command that the README shows is a command that works."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lmx.config.compose import compose

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
# what makes a command of the README short, without changing what it does
SHORT = [
    "train.horizon=4steps",
    "train.eval_every_steps=2",
    "train.eval_batch_size=64",
    "train.batch_size=4",
    "data.sequence_length=32",
    "model=tiny",
    "hardware=cpu",
    "optimizer.lr=1e-3",
]
STORIES = ["data=storyworld", "data.stories=120", "data.held_out_stories=2", "tokenizer=byte"]


def shown_commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.S)
    lines = [
        line.partition(" #")[0].strip().removeprefix("$ ") for block in blocks for line in block.splitlines()
    ]
    return [line for line in lines if line.startswith(("python -m lmx", "make "))]


COMMANDS = shown_commands()


def overrides_of(command: str) -> list[str]:
    words = shlex.split(command)
    return [word for word in words if "=" in word]


def run_door(module: str, argv: list[str]) -> int:
    return importlib.import_module(module).main(argv)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder with texts, and one with two finished runs."""
    root = tmp_path_factory.mktemp("readme")
    texts = root / "texts"
    texts.mkdir()
    (texts / "some.txt").write_text(
        "\n\n".join(f"Paragraph {n} of a small text about nothing." for n in range(400))
    )
    paths = [f"paths.outputs={root / 'outputs'}", f"paths.cache={root / 'cache'}"]
    for seed in (1, 2):
        assert run_door("lmx.train", [*SHORT, *STORIES, *paths, f"seed={seed}", "name=readme"]) == 0
    first, second = sorted((root / "outputs" / "readme").iterdir())
    return {
        "texts": str(texts),
        "first": str(first),
        "second": str(second),
        "outputs": paths[0],
        "cache": paths[1],
    }


def test_the_readme_shows_commands_of_every_door() -> None:
    shown = " ".join(COMMANDS)
    for door in ("train", "study", "plan", "report", "audit", "evaluate", "generate", "export", "data"):
        assert f"python -m lmx.{door}" in shown


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run(
        [*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", [line for line in COMMANDS if "lmx.train" in line and "hiden" not in line]
)
def test_train_commands_compose(command: str, place: dict[str, str]) -> None:
    overrides = [word for word in overrides_of(command) if not word.startswith(("resume", "init_from"))]
    choices = [word.replace("DIR", place["texts"]).split(",")[0] for word in overrides]
    assert compose(choices).name


RUNS = [
    line
    for line in COMMANDS
    if "lmx.train" in line and not re.search(r"hiden|--|wikitext|resume=out|init_from|experiment=", line)
]


@pytest.mark.parametrize("command", RUNS)
def test_train_commands_run(command: str, place: dict[str, str]) -> None:
    # two jobs stand for a sweep of six: each is a process of its own
    words = [
        word.replace("DIR", place["texts"]).replace("seed=1,2,3", "seed=1")
        for word in shlex.split(command)[3:]
    ]
    corpus = [] if "data=text" in words else STORIES
    keep = [word for word in words if not word.startswith("train.horizon")]
    names = {word.split("=")[0] for word in keep}
    short = [word for word in [*SHORT, *corpus] if word.split("=")[0] not in names]
    assert run_door("lmx.train", [*keep, *short, place["outputs"], place["cache"]]) == 0


def test_a_run_is_continued_for_longer(place: dict[str, str]) -> None:
    assert run_door("lmx.train", [f"resume={place['first']}", "train.horizon=6steps"]) == 0


def test_a_run_starts_from_the_weights_of_another(place: dict[str, str]) -> None:
    argv = [*SHORT, *STORIES, f"init_from={place['first']}", place["outputs"], place["cache"]]
    assert run_door("lmx.train", argv) == 0


def test_wikitext_from_a_folder(place: dict[str, str]) -> None:
    data = os.environ.get("LMX_TEST_DATA")
    if data is None:
        pytest.skip(
            "LMX_TEST_DATA is not set: set it to a folder that holds wikitext-2/ to train on the real corpus"
        )
    command = next(line for line in COMMANDS if "local_dir=DIR" in line)
    words = overrides_of(command.replace("DIR", f"{data}/wikitext-2"))
    short = [word for word in SHORT if not word.startswith("model=")]
    small = ["model.hidden_size=32", "model.num_layers=1", "model.head_dim=8", "tokenizer=byte"]
    argv = [
        *words,
        *short,
        *small,
        "train.eval_batch_size=64",
        "data.max_documents=400",
        "train.eval_at_start=false",
        "train.eval_every_steps=4",
    ]
    assert run_door("lmx.train", [*argv, place["outputs"], place["cache"]]) == 0


@pytest.mark.parametrize(
    "command", [line for line in COMMANDS if re.search(r"lmx\.(report|audit|evaluate|generate|export)", line)]
)
def test_commands_on_a_run(
    command: str, place: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, *words = shlex.split(command)[2:]
    runs = iter((place["first"], place["second"]))
    page = tmp_path / "theirs.md"
    page.write_text("| Epoch | Eval Loss | Eval Perplexity |\n|--|--|--|\n| 1 | 2.0 | 7.39 |\n")
    places = {"OUT": str(tmp_path / "out"), "FILE.md": str(page)}
    argv = [next(runs) if word == "RUN" else places.get(word, word) for word in words]
    module = f"{module}.__main__" if module in ("lmx.report", "lmx.audit") else module
    assert run_door(module, argv) == 0
    assert capsys.readouterr().out.strip()


def test_data_and_plan(place: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for command in (line for line in COMMANDS if re.search(r"lmx\.(data|plan)", line)):
        module, *words = shlex.split(command)[2:]
        extra = [*STORIES, place["cache"]] if module == "lmx.data" else ["tokenizer=bpe"]
        module = "lmx.data.__main__" if module == "lmx.data" else module
        assert run_door(module, [*words, *extra]) == 0
        assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", [line for line in COMMANDS if "lmx.study" in line])
def test_studies(command: str, place: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[3:]
    # of the real study only the list: its arms train for hours
    argv = [*words, place["cache"], place["outputs"], *([] if "--list" in words else ["--list"])]
    assert run_door("lmx.study", argv) == 0
    jobs = {"cs336_lr": 8 * 3, "scaling_law": 9 * 1}[words[0]]
    assert capsys.readouterr().out.count(" missing ") == jobs


def test_the_refusal_in_the_readme_is_the_real_one(capsys: pytest.CaptureFixture[str]) -> None:
    command = next(line for line in COMMANDS if "hiden" in line)
    assert run_door("lmx.train", overrides_of(command)) == 2
    refusal = capsys.readouterr().err.strip()
    assert refusal in README
