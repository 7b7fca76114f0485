"""What evaluation windows score, against plain loops over the text and a harness's rolling scores."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_helpers import EOS, files_config, prepared

from lmx.config import ModelConfig
from lmx.data import Windows
from lmx.data.layout import IGNORE
from lmx.measure import bits_per_byte, word_perplexity
from lmx.model import Decoder

T = 8
TEXT = "A small text, with naïve words and\nseveral lines, each of some length; the end."


@pytest.fixture(scope="module")
def model() -> Iterator[Decoder]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of these sizes one is fastest
    torch.manual_seed(0)
    shape = ModelConfig(name="m", hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
    shape.vocab_size, shape.context_length = 257, T
    yield Decoder(shape).double().eval()
    torch.set_num_threads(threads)


def validation(folder: Path, text: str, **changes: object) -> Windows:
    """The windows of a validation split that is one document."""
    (folder / "train.txt").write_text("text to train on, and more of it")
    (folder / "valid.txt").write_text(text + "\n")
    return prepared(files_config(str(folder), sequence_length=T, **changes), folder / "cache").splits[
        "validation"
    ]


def nats(model: Decoder, tokens: list[int], targets: list[int]) -> float:
    """Summed negative log-likelihood of the targets that count."""
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([tokens])))[0]
    return float(F.cross_entropy(logits, torch.tensor(targets), ignore_index=IGNORE, reduction="sum"))


def scored(model: Decoder, windows: Windows, rows: slice = slice(None)) -> float:
    arrays = windows.gather(np.arange(len(windows))[rows])
    pairs = zip(arrays["tokens"].tolist(), arrays["targets"].tolist(), strict=True)
    return sum(nats(model, tokens, targets) for tokens, targets in pairs)


def rolling(tokens: list[int], prefix: int, length: int) -> Iterator[tuple[list[int], list[int]]]:
    """lm-evaluation-harness's rolling windows: each token is scored once, after at most `length` others.

    (inputs, targets); the last window reaches back to be full, and only its new targets are scored.
    """
    yield [prefix, *tokens[: length - 1]], tokens[:length]
    for start in range(length, len(tokens), length):
        end = min(start + length, len(tokens))
        yield tokens[end - length - 1 : end - 1], [*[IGNORE] * (length - (end - start)), *tokens[start:end]]


def test_measures_of_a_document_are_those_of_the_harness(model: Decoder, tmp_path: Path) -> None:
    """On whole windows: of a part of one, the harness repeats what is before it and lmx does not."""
    raw = list(TEXT.encode())
    assert len(raw) == 10 * T
    likelihood = -sum(nats(model, *window) for window in rolling(raw, EOS, T))
    windows = validation(tmp_path, TEXT)
    # the harness does not score the end of the text, which is the last window's only target
    assert windows[len(windows) - 1]["targets"].tolist() == [EOS, *[IGNORE] * (T - 1)]
    total = scored(model, windows, slice(0, -1))
    assert total == pytest.approx(-likelihood, rel=1e-12)
    assert (windows.scored_bytes, windows.scored_words) == (len(raw), len(re.split(r"\s+", TEXT)))
    harness = (-likelihood / (len(raw) * math.log(2)), math.exp(-likelihood / len(re.split(r"\s+", TEXT))))
    assert bits_per_byte(total, windows.scored_bytes) == pytest.approx(harness[0], rel=1e-12)
    assert word_perplexity(total, windows.scored_words) == pytest.approx(harness[1], rel=1e-9)


@pytest.mark.parametrize("length", [79, 72])
def test_windows_score_each_token_once_after_what_is_before_it(
    model: Decoder, tmp_path: Path, length: int
) -> None:
    text = TEXT[:length]
    tokens = [EOS, *text.encode(), EOS]
    expected = sum(
        nats(model, tokens[start : start + T][: len(tokens) - 1 - start], tokens[start + 1 : start + T + 1])
        for start in range(0, len(tokens) - 1, T)
    )
    assert scored(model, validation(tmp_path, text)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("stride", [1, 3, T])
def test_sliding_windows_give_each_token_the_context_of_its_first_window(
    model: Decoder, tmp_path: Path, stride: int
) -> None:
    tokens = [EOS, *TEXT.encode(), EOS]
    expected = 0.0
    for target in range(1, len(tokens)):
        start = max(0, -(-(target - T) // stride)) * stride  # the first window that reaches so far
        context = tokens[start:target]
        expected += nats(model, context, [*[IGNORE] * (len(context) - 1), tokens[target]])
    windows = validation(tmp_path, TEXT, packing="stride", stride=stride)
    assert scored(model, windows) == pytest.approx(expected, rel=1e-12)
