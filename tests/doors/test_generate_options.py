"""`python -m lmx.generate`: several prompts at once, stops, streaming, and vocabularies that eat a space."""

from __future__ import annotations

import pytest
import torch

from lmx import generate
from lmx.config import ConfigError, ModelConfig
from lmx.data import Tokenizer
from lmx.data.tokenizers import ByteTokenizer, SubwordTokenizer
from lmx.model import Decoder, GenerationOptions
from lmx.training.restore import Restored


def metaspace() -> SubwordTokenizer:
    """Words with their space, as sentencepiece writes them: the first space of a text is not shown."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    words = ["<unk>", "</s>", "▁Once", "▁upon", "▁a", "▁time", ".", "▁b"]
    rules = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    rules.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    rules.decoder = decoders.Metaspace()
    return SubwordTokenizer(rules.to_str(), eos_id=1, pad_id=None)


def patched(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    """Let the door find a model of random weights with `tokenizer`."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 24, "init_std": 0.5}
    config = ModelConfig(name="test", vocab_size=tokenizer.vocab_size, context_length=40, **shape)
    restored = Restored(Decoder(config).eval(), tokenizer)
    monkeypatch.setattr("lmx.training.restore.restore", lambda *_: restored)


def prompts(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--prompt", text)]


def test_prompts_of_unequal_length_are_continued_as_each_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patched(monkeypatch, ByteTokenizer())
    greedy = ["--temperature", "0", "--max-new-tokens", "9"]
    texts = ["a", "A longer one", ""]
    alone = []
    for text in texts:
        assert generate.main(["run", *prompts(text), *greedy]) == 0
        alone.append(capsys.readouterr())
    assert generate.main(["run", *prompts(*texts), *greedy]) == 0
    together = capsys.readouterr()
    assert together.out == "".join(one.out for one in alone)
    assert together.err == "".join(one.err for one in alone)
    lines = together.err.splitlines()
    assert lines[0] == "prompt 'a', seed 0"
    assert lines[2] == "prompt 'A longer one', seed 0"


def shown_of(tokens: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is on the screen after each token of rows `a` and `b`."""
    options = GenerationOptions(stop_tokens=(256, ord(".")))
    texts = generate.Texts(ByteTokenizer(), ["a", "b"], [[97], [98]], options)
    screens = []
    for row, token in tokens:
        texts.add(row, token)
        screens.append(capsys.readouterr().out)
    texts.end()
    return [*screens, capsys.readouterr().out]


def test_the_first_text_streams_and_the_others_wait_their_turn(capsys: pytest.CaptureFixture[str]) -> None:
    snow = list("é".encode())
    tokens = [(0, 120), (1, 121), (0, snow[0]), (1, 46), (0, snow[1]), (0, 46)]
    assert shown_of(tokens, capsys) == ["ax", "", "", "", "é", ".\nby.\n", ""]
    assert shown_of([(1, 121), (0, 256), (1, 122)], capsys) == ["", "a\n", "byz", "\n"]


def test_spaces_between_prompt_and_continuation_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = metaspace()
    assert tokenizer.continuation(tokenizer.encode("Once upon"), [4, 5, 6]) == " a time."
    patched(monkeypatch, tokenizer)
    monkeypatch.setattr("lmx.model.generate", lambda model, starts, options, on_token: on_token(0, 4))
    assert generate.main(["run", *prompts("Once upon")]) == 0
    assert capsys.readouterr().out == "Once upon a\n"


def test_stops_are_tokens_by_their_text() -> None:
    tokenizer = metaspace()
    assert generate._stop_tokens(tokenizer, []) == [1]
    assert generate._stop_tokens(tokenizer, [".", " a"]) == [1, 6, 4]
    assert generate._stop_tokens(ByteTokenizer(), ["."]) == [256, 46]
    for stop in ("", "a time"):
        with pytest.raises(
            ConfigError, match=f"--stop: got '{stop}', no token of this run; allowed: text that"
        ):
            generate._stop_tokens(tokenizer, [stop])


def test_a_stop_ends_the_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    patched(monkeypatch, metaspace())
    generate.main(["run", *prompts("Once"), "--temperature", "9", "--max-new-tokens", "30"])
    free = capsys.readouterr().out
    assert "." in free[:-2]
    generate.main(["run", *prompts("Once"), "--temperature", "9", "--max-new-tokens", "30", "--stop", "."])
    assert capsys.readouterr().out == free[: free.index(".") + 1] + "\n"


def test_nothing_is_printed_of_a_prompt_that_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patched(monkeypatch, ByteTokenizer())
    assert generate.main(["run", *prompts("short", "x" * 50)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(
        "lmx: prompt 1: got 50 tokens and max_new_tokens=1, allowed: together at most"
    )
