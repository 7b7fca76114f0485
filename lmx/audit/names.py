"""How reports name settings and measures, and how they print numbers: both read from text."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

# what reports call a setting; `_`, `-`, `/` and `.` count as spaces
SETTINGS = {
    "hidden_size": "hidden size|hidden dim|hidden dimension|d model|model dim|model dimension|width|n embd|"
    "dim|embedding size|embed size|embedding dim|embedding dimension|embed dim|d",
    "num_layers": "layers|n layer|n layers|num layers|num hidden layers|number of layers|depth|l",
    "num_heads": "heads|n head|n heads|num heads|num attention heads|attention heads|number of heads",
    "num_kv_heads": "kv heads|n kv heads|num kv heads|num key value heads",
    "head_dim": "head dim|head dimension|head size|d head",
    "intermediate_size": "intermediate size|d ff|ff|ffn|ffn dim|ff dim|feed forward|feedforward|"
    "feed forward dim|dim feedforward|mlp dim|ffn hidden|ff size|feed forward size",
    "vocab_size": "vocab size|vocab|vocabulary|vocabulary size|n vocab|v",
    "sequence_length": "sequence length|seq len|seq length|context length|context|max seq len|block size|"
    "block|max sequence length|n positions|max position embeddings|context window|t",
    "batch_size": "batch size|batch|train batch size|per device train batch size",
    "accumulation": "gradient accumulation steps|gradient accumulation|grad accum|accumulation steps|"
    "accumulation",
    "total_steps": "total steps|steps|max steps|training steps|train steps|num steps|iterations|max iters|"
    "total iterations|updates|total updates|optimizer steps|global steps|num train steps|global step",
    "schedule_steps": "cosine steps|cosine cycle iters|cosine cycle|cosine horizon|decay steps|"
    "lr decay iters|lr decay steps|t max|schedule steps|cosine decay steps",
    "epochs": "epochs|epochs trained|num epochs|num train epochs|max epochs|total epochs",
    "tokens": "total tokens|total tokens processed|tokens processed|tokens seen|token budget|tokens trained",
    "train_tokens": "train tokens|training tokens|dataset tokens|tokens in train|train set tokens|"
    "training set tokens|tokens train",
    "validation_tokens": "validation tokens|val tokens|tokens validation|eval tokens|validation set tokens",
    "parameters": "parameters|params|total parameters|total params|num parameters|number of parameters|"
    "n params|parameter count|model parameters|n parameters|trainable parameters",
    "ratio": "d n|d n ratio|tokens per parameter|tokens parameter|token parameter ratio|chinchilla ratio|"
    "tokens to parameters|data to parameter ratio|ratio d n|tokens parameter ratio|tokens parameters ratio|"
    "tokens per parameter ratio|tokens to parameter ratio|tokens to parameters ratio|current ratio|"
    "your ratio|our ratio|actual ratio",
    "seed": "seed|random seed|seeds",
    "stride": "stride|window stride",
    "eval_batches": "eval batches|eval iters|eval steps per evaluation|max eval batches|validation batches|"
    "num eval batches|eval windows",
    "lr": "lr|learning rate|max lr|max learning rate|peak lr|rate|peak learning rate",
    "alpha": "alpha|α",
    "gamma": "gamma|γ",
    "epoch": "epoch",
    "step": "step|iteration|iter",
}
MEASURES = {
    "loss": "loss|nll",
    "ce": "ce loss|cross entropy|cross entropy loss|ce|loss ce",
    "ppl": "perplexity|ppl",
    "entropy": "entropy|mean entropy",
    "grad_norm": "grad norm|gradient norm|grad l2 norm",
    "pi": "pi|predictive integrity",
    "accuracy": "accuracy|acc|token accuracy",
    "cosine": "cosine loss|cos loss|l cos|cosine",
    "effective_gamma": "eff gamma|effective gamma",
}
_SPLITS = {
    "train": "train|training|tr",
    "val": "val|valid|validation|eval|evaluation|dev|held out",
    "test": "test",
}
_WHENS = {
    "best": "best|lowest|minimum|min",
    "final": "final|last|end",
    "initial": "initial|start|step 0|before training|untrained|initial step",
    "other": "target|expected|published|baseline|delta|Δ|improvement|difference|change|gain|goal|maximum|max|"
    "highest|optimal|optimum|needed|required|smoothed|word",
}
_NAMES = {
    alias: name for table in (SETTINGS, MEASURES) for name, text in table.items() for alias in text.split("|")
}
_WORDS = {word: ("split", name) for name, text in _SPLITS.items() for word in text.split("|")} | {
    word: ("when", name) for name, text in _WHENS.items() for word in text.split("|")
}
_LONGEST = 5  # words of a name
NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?"
_QUANTITY = re.compile(
    rf"\s*[~≈]?\s*\$?({NUMBER})(?:\s*[×x]\s*10\^?(-?\d{{1,3}}))?\s*([kKMBT](?![\w/])|million|billion)?"
)
_LARGEST_POWER = 290  # of ten; what is beyond is no figure, and times a scale no float
_SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12, "million": 1e6, "billion": 1e9}


class Quantity(NamedTuple):
    """A printed number, and half a unit of its last digit."""

    value: float
    error: float


class Key(NamedTuple):
    """What a number stands for; `split` and `when` (best, final, initial) are empty where nothing says so."""

    name: str
    split: str = ""
    when: str = ""


def quantity(text: str) -> Quantity | None:
    """Read the number that a text begins with: `39,605,248`, `17M`, `3e-4`, `≈ 1.2 × 10^9`; None for none."""
    match = _QUANTITY.match(text)
    if match is None:
        return None
    digits = match[1].replace(",", "").lower()
    mantissa, _, exponent = digits.partition("e")
    power = int(exponent or 0) + int(match[2] or 0)
    if abs(power) > _LARGEST_POWER:
        return None
    scale = 10.0**power * _SCALES.get((match[3] or "").lower(), 1.0)
    decimals = len(mantissa.partition(".")[2])
    value = float(mantissa) * scale
    exact = scale == 1.0 and not decimals
    return Quantity(value, 0.0 if exact else 0.5 * 10.0**-decimals * scale)


@lru_cache(maxsize=4096)
def key_of(text: str, split: str = "", when: str = "") -> Key | None:
    """Read what a heading of a column, a key or a phrase stands for; its last words decide. None: unknown.

    `split` and `when` hold where the text itself names none.
    """
    text = re.sub(r"\([^()]*\)|[*`]", " ", text.lower())
    words = re.sub(r"[_/.\-:=#|]+", " ", text).split()
    for size in range(min(_LONGEST, len(words)), 0, -1):
        name = _NAMES.get(" ".join(words[-size:]))
        if name is None:
            continue
        split, when = qualified(words[:-size], split, when)
        if name in MEASURES:
            return Key(name, split, when)
        plain_setting = not when or when == "final"
        return Key(name) if plain_setting else Key(name, "", when)
    return None


def qualified(words: list[str], split: str, when: str) -> tuple[str, str]:
    """Return the split and the time that words tell, the last ones that do; else those given."""
    for first in range(len(words)):
        for size in (2, 1):
            kind, name = _WORDS.get(" ".join(words[first : first + size]), ("", ""))
            if kind == "split":
                split = name
            elif kind == "when" and when != "other":
                when = name
    return split, when


def is_number(text: str) -> bool:
    """Return whether a text is a number and nothing else."""
    match = _QUANTITY.match(text)
    return match is not None and match.end() == len(text)
