"""`python -m lmx.evaluate` and `python -m lmx.generate` on a small run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lmx import evaluate, generate
from lmx.config.compose import compose
from lmx.runs import RunFolder
from lmx.runs.metrics import read_lines
from lmx.training import train
from lmx.training.checkpoints import LAST, checkpoints
from lmx.training.restore import restore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of a few steps."""
    place = tmp_path_factory.mktemp("doors")
    overrides = [
        *("data.stories=4", "data.held_out_stories=3", "tokenizer=byte", "data.sequence_length=48"),
        *("model.hidden_size=32", "model.num_layers=1", "model.num_heads=2", "model.intermediate_size=64"),
        *("hardware=cpu", "hardware.threads=1", "train.batch_size=8", "train.horizon=4steps", "logger=none"),
        *("callbacks=none", f"paths.outputs={place / 'outputs'}", f"paths.cache={place / 'cache'}"),
    ]
    threads = torch.get_num_threads()
    made = train(compose(overrides), overrides).folder
    torch.set_num_threads(threads)
    return made


def test_evaluate_repeats_the_recorded_figures(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(folder.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    recorded = read_lines(folder.metrics)[0][-1]
    assert set(found) == {
        name.replace("val/", "validation/") for name in recorded if name.startswith("val/")
    } - {"validation/seconds"}
    for name, value in found.items():
        assert value == pytest.approx(recorded[name.replace("validation/", "val/")], rel=1e-6)


def test_evaluate_prints_a_table_of_any_split(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(folder.path), "--split", "train", "--batch-size", "3"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0][0] == "train/loss"
    assert 4 < float(rows[0][1]) < 6


def test_generate_writes_what_greedy_decoding_gives(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        generate.main([str(folder.path), "--prompt", "Once", "--temperature", "0", "--max-new-tokens", "8"])
        == 0
    )
    shown = capsys.readouterr()
    restored = restore(folder.path, None, lambda text: None)
    ids = restored.tokenizer.encode("Once")
    with torch.no_grad():
        for _ in range(8):
            logits = restored.model.logits(restored.model(torch.tensor([ids])))
            ids.append(int(logits[0, -1].argmax()))
    assert shown.out.rstrip("\n") == restored.tokenizer.decode(ids).rstrip("\n\ufffd")
    assert "prompt 'Once', seed 0" in shown.err
    assert "distinct-1 " in shown.err


def test_generate_is_a_function_of_the_seed(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("3", "3", "4"):
        assert (
            generate.main(
                [str(folder.path), "--prompt", "The", "--prompt", "A", "--seed", seed, "--top-k", "9"]
            )
            == 0
        )
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("The")
    assert generate.main([str(folder.path)]) == 0, "without a prompt it begins a document"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "x" * 48], "allowed: together at most model.context_length=48"),
        (["--max-new-tokens", "100", "--prompt", "x"], "allowed: together at most model.context_length=48"),
        (["--temperature", "-1"], "temperature: got -1"),
        (["--checkpoint", "no.ckpt"], "no.ckpt: no such checkpoint"),
        (["--promt", "x"], "--promt x: unknown option; did you mean '--prompt'?"),
    ],
)
def test_what_generate_refuses(
    arguments: list[str], message: str, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main([str(folder.path), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("lmx: ")
    assert message in error


def test_a_checkpoint_file_can_be_named(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(checkpoints(folder.checkpoints, LAST)[0])
    assert evaluate.main([str(folder.path), "--checkpoint", file, "--json"]) == 0
    assert "validation/loss" in json.loads(capsys.readouterr().out)


def test_a_run_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for door in (evaluate, generate):
        assert door.main([str(tmp_path)]) == 2
        assert "not a run folder" in capsys.readouterr().err


def test_help_comes_without_torch() -> None:
    code = (
        "import sys, lmx.{0}\ntry: lmx.{0}.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    )
    for door in ("evaluate", "generate"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(door)], capture_output=True, text=True, check=True
        )
        assert "usage: python -m lmx." in done.stdout
        assert done.stdout.strip().endswith("False")
