"""What a user may type wrongly, through the real door: one line, exit status 2, and nothing left behind."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from lmx.train import main

# a group option, a key, a type, a shape, a path, a split, a corpus, a vocabulary: the line about each
LINES = {
    "model=llama_tny": r"model: got 'llama_tny', allowed: .*; did you mean 'llama_tiny'\?",
    "model.hiden_size=64": r"model\.hiden_size: unknown key; did you mean 'model\.hidden_size'\?",
    "+model.hiden_size=64": r"model\.hiden_size: unknown key; did you mean 'model\.hidden_size'\?",
    "schedule=constant schedule.final_fraction=0.1": r"schedule\.final_fraction: .*no effect.*",
    "train.batch_size=eight": r"train\.batch_size: got 'eight', allowed: a whole number",
    "model.num_heads=7": r"model\.num_heads: got 7, allowed: a divisor of model\.hidden_size=128 such as .*",
    "model.num_heads=4 model.num_kv_heads=3": r"model\.num_kv_heads: got 3, allowed: a divisor of .*4.*",
    "data=text data.files=PLACE/missing": r"data\.files: got '.*/missing', which does not exist",
    "data=wikitext2 data.local_dir=PLACE/missing": r".*local_dir.*/missing.*",
    "data=text data.files=PLACE/empty data.validation_files=PLACE/long tokenizer=byte": (
        r"text: the train split has no documents"
    ),
    "data=text data.files=PLACE/short data.validation_files=PLACE/long tokenizer=byte": (
        r"data\.sequence_length: got 256, but the train split of text \(12 tokens, .*\) gives no window"
    ),
    "model.vocab_size=100": r"model\.vocab_size: got 100, allowed: at least tokenizer\.vocab_size=1024 .*",
    "tokenizer=pretrained tokenizer.path=PLACE/short": r"tokenizer\.path: .*PLACE/short.*",
    "init_from=PLACE/missing": r".*missing.*",
    "resume=PLACE/missing": r".*missing.*",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in {"empty": "", "short": "Too short.", "long": "A longer text. " * 99}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(text)
    return tmp_path


def refused(argv: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the door, and return the one line that it printed about what it refused."""
    outputs = place / "outputs"
    given = [word for word in argv if word.startswith("paths.outputs")]
    paths = [*(given or [f"paths.outputs={outputs}"]), f"paths.cache={place / 'cache'}"]
    words = [word for word in argv if word not in given]
    assert main([*words, *paths, "train.horizon=1steps"]) == 2  # short, should nothing be refused
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("lmx: ")]
    assert len(lines) == 1, said
    assert said[-1] == lines[0]
    assert not [path for path in outputs.rglob("*") if path.is_file()]
    return lines[0].removeprefix("lmx: ")


@pytest.mark.parametrize("line", LINES)
def test_one_line_exit_two_nothing_left(line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(line.replace("PLACE", str(place)).split(), place, capsys)
    assert re.fullmatch(LINES[line].replace("PLACE", re.escape(str(place))), said), said


def test_outputs_that_cannot_be_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "file").write_text("no folder")
    said = refused([f"paths.outputs={place / 'file' / 'outputs'}"], place, capsys)
    assert re.fullmatch(r"paths\.outputs: got '.*/file/outputs', where no run folder can be made .*", said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_outputs_that_are_read_only(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locked = place / "locked"
    locked.mkdir(mode=0o555)
    said = refused([f"paths.outputs={locked}"], place, capsys)
    assert re.fullmatch(r"paths\.outputs: got '.*/locked', where no run folder can be made .*", said)


def test_no_network(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # a port where nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        said = refused(["data=wikitext2", "data.timeout_seconds=2"], place, capsys)
    assert re.fullmatch(
        r"data\.repository: Salesforce/wikitext cannot be read: .* or data\.local_dir=DIR", said
    ), said
