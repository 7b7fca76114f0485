"""The command `python -m lmx.data`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmx.data.__main__ import main

STORIES = ["data=storyworld", "data.stories=40", "data.held_out_stories=20", "data.sequence_length=64"]


def line(action: str, cache: Path, *overrides: str) -> list[str]:
    return [action, *STORIES, "tokenizer=byte", f"paths.cache={cache}", *overrides]


def test_prepare_inspect_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line("verify", tmp_path)) == 2
    assert "data: storyworld is not prepared" in capsys.readouterr().err
    assert main(line("prepare", tmp_path)) == 0
    captured = capsys.readouterr()
    folder = Path(captured.out.splitlines()[-1])
    assert "storyworld: prepared" in captured.err
    assert main(line("inspect", tmp_path)) == 0
    captured = capsys.readouterr()
    rows = {row[:30].strip(): row[30:].split() for row in captured.out.splitlines()}
    assert rows["documents"] == ["40", "20", "20"]
    assert captured.out.count("train window") == 3
    assert captured.err == ""
    assert main(line("verify", tmp_path)) == 0
    assert "all hashes as written" in capsys.readouterr().out
    content = bytearray((folder / "train.tokens").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "train.tokens").write_bytes(content)
    assert main(line("verify", tmp_path)) == 2
    assert "train.tokens: SHA-256 is" in capsys.readouterr().err


def test_refusals_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "data=text", f"data.files={tmp_path / 'none'}", f"paths.cache={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lmx: data.files: got")
    assert error.count("\n") == 1
    assert main(["prepare", "data=storyword"]) == 2
    assert "did you mean 'storyworld'" in capsys.readouterr().err
    assert main(["prepair"]) == 2
    assert "prepair" in capsys.readouterr().err
