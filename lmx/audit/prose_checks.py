"""What a report leaves out or mixes up, read from its words."""

from __future__ import annotations

import re

from lmx.audit.reading import Reading, is_result
from lmx.audit.report_checks import Looked, Wrong

FEW_UPDATES = 100
_SEVERAL_SEEDS = re.compile(
    r"±|seeds?\b\W+\d+\s*(?:,|and|/|to|–|-)\s*\d+|\b(?:[2-9]|\d\d|two|three|four|five|ten)\s+seeds", re.I
)
_FINE_TUNED = re.compile(r"fine-?\s?tun|distilgpt2|\bpre-?trained\b", re.I)
_BEFORE = re.compile(
    r"before (?:fine|train)|zero-shot|step[ -]?0\b|untrained|epoch 0\b|without fine-?tuning", re.I
)
_SUBWORDS = re.compile(r"gpt-?2 tokenizer|\bBPE\b|byte-pair|50,?257|sentencepiece|subword", re.I)
_WORD_LEVEL = re.compile(r"AWD-LSTM|Transformer-XL|word-level|per-word (?:model|figure)|Mikolov|Merity", re.I)
_PER_WORD = re.compile(
    r"word perplexity|perplexity per word|per word\b|bits per byte|bits/byte|not comparable", re.I
)
_PROMPT = re.compile(r"prompt[^`\"“\n]{0,40}[`\"“]([^`\"”“\n]*\S[ \t]+)[`\"”]", re.I)
_FILE = (
    r"[_ ]?(?:file|path|data|dataset|set|split)s?[\"'`]?\s*[:=|]\s*[\"'`]?"
    r"([\w./\\-]+\.\w+|[\w.-]*[/\\][\w./\\-]+)"
)
_TRAIN_FILE = re.compile(r"\btrain(?:ing)?" + _FILE, re.I)
_HELD_FILE = re.compile(r"\b(?:val|valid|validation|eval)" + _FILE, re.I)
_RANDOM = re.compile(r"random[ _-]?split|split[^.\n]{0,30}(?:at )?random|randomly split", re.I)


def overlap(reading: Reading) -> Looked:
    """One file for training and validation, or overlapping windows that were split at random."""
    train, held = _TRAIN_FILE.search(reading.text), _HELD_FILE.search(reading.text)
    if train and held:
        same = train[1] == held[1]
        yield (
            Wrong(_line(reading, held.start()), f"training and validation both read {held[1]}")
            if same
            else None
        )
    random = _RANDOM.search(reading.text)
    strides, lengths = (_all(reading, name) for name in ("stride", "sequence_length"))
    if random and strides and lengths:
        shared = min(lengths) - min(strides)
        yield (
            None
            if shared <= 0
            else Wrong(
                _line(reading, random.start()),
                f"windows of {min(lengths):g} tokens, {min(strides):g} apart, were split at random: "
                f"neighbours share {shared:g} tokens",
            )
        )


def _all(reading: Reading, name: str) -> list[float]:
    return [value.value for _, group in reading.groups() if (value := group.get(name))]


def part_of_split(reading: Reading) -> Looked:
    """An evaluation on a number of batches."""
    for _, group in reading.groups():
        batches = group.get("eval_batches")
        if batches is not None and group.kind in ("pairs", "json"):
            yield Wrong(group.number, f"evaluation on {batches.value:,.0f} batches")


def seeds(reading: Reading) -> Looked:
    """A comparison without a second seed."""
    if len(reading.compared) < 2:
        return
    found = {
        q.value for _, group in reading.groups() for key, q in group.values.items() if key.name == "seed"
    }
    several = len(found) > 1 or _SEVERAL_SEEDS.search(reading.text)
    names = ", ".join(reading.compared[:4]) + (", …" if len(reading.compared) > 4 else "")
    if "seed" in reading.text.lower() and not several:
        yield Wrong(1, f"{len(reading.compared)} experiments are compared ({names}), each with one seed")
    elif several:
        yield None


def no_seed(reading: Reading) -> Looked:
    """Results of which nobody can say how they were drawn."""
    results = any(is_result(group) for _, group in reading.groups())
    if results and reading.counts["settings"] >= 3:
        named = re.search(r"seed", reading.text, re.I)
        yield None if named else Wrong(1, "a configuration and results, and the word seed nowhere")


def few_updates(reading: Reading) -> Looked:
    """Conclusions after a handful of updates."""
    if len(reading.compared) < 2:
        return
    for _, group in reading.groups():
        total = group.get("total_steps")
        if total is not None and group.kind in ("pairs", "json", "row") and total.value > 0:
            yield (
                None
                if total.value >= FEW_UPDATES
                else Wrong(
                    group.number, f"{total.value:g} updates of the weights, and experiments are compared"
                )
            )


def no_reference(reading: Reading) -> Looked:
    """A fine-tuned model whose own loss before fine-tuning is not given."""
    tuned = _FINE_TUNED.search(reading.text)
    if tuned and any(is_result(group) for _, group in reading.groups()):
        zero = any(
            key.when == "initial" or (key.name in ("epoch", "step") and value.value == 0)
            for _, group in reading.groups()
            for key, value in group.values.items()
        )
        known = zero or _BEFORE.search(reading.text)
        yield (
            None
            if known
            else Wrong(_line(reading, tuned.start()), f"“{tuned[0]}”, and no figure from before")
        )


def part_not_logged(reading: Reading) -> Looked:
    """A cosine part of the objective that no table shows."""
    mixed = [q for _, group in reading.groups() if (q := group.get("alpha")) and 0 < q.value <= 1]
    if not mixed or not re.search(r"top[-_ ]?k|cos(?:ine)?[ -](?:loss|mix|distance)", reading.text, re.I):
        return
    if not re.search(r"\bcos", reading.text, re.I):
        return
    shown = any(key.name == "cosine" for _, group in reading.groups() for key in group.values)
    yield None if shown else Wrong(1, f"a mix with alpha {mixed[0].value:g}, and the cosine part in no table")


def word_level(reading: Reading) -> Looked:
    """Perplexity per subword beside published ones per word."""
    words, subwords = _WORD_LEVEL.search(reading.text), _SUBWORDS.search(reading.text)
    has = any(key.name == "ppl" for _, group in reading.groups() for key in group.values)
    if words and subwords and has:
        yield (
            None
            if _PER_WORD.search(reading.text)
            else Wrong(
                _line(reading, words.start()),
                f"perplexity per token of “{subwords[0]}” beside “{words[0]}”, whose unit is the word",
            )
        )


def prompts(reading: Reading) -> Looked:
    """A prompt that ends with a space."""
    for match in _PROMPT.finditer(reading.text):
        yield Wrong(_line(reading, match.start()), f"the prompt {match[1]!r} ends with a space")


def _line(reading: Reading, position: int) -> int:
    return reading.text.count("\n", 0, position) + 1
