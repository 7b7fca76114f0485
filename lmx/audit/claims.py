"""The figures that a report gives, under the names of this project: what stands together is one group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from lmx.audit.markdown import DEEPEST, Line, Section, Table, plain

# what reports call a setting; `_`, `-`, `/` and `.` count as spaces
SETTINGS = {
    "hidden_size": "hidden size|hidden dim|hidden dimension|d model|model dim|model dimension|width|n embd|"
    "dim|embedding dim|embedding dimension|embed dim|d",
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
    "epochs": "epochs|num epochs|num train epochs|max epochs|total epochs",
    "tokens": "total tokens|total tokens processed|tokens processed|tokens seen|token budget|tokens trained",
    "train_tokens": "train tokens|training tokens|dataset tokens|tokens in train|train set tokens|"
    "training set tokens|tokens train",
    "validation_tokens": "validation tokens|val tokens|tokens validation|eval tokens|validation set tokens",
    "parameters": "parameters|params|total parameters|total params|num parameters|number of parameters|"
    "n params|parameter count|model parameters|n parameters|trainable parameters",
    "ratio": "d n|d n ratio|tokens per parameter|tokens parameter|token parameter ratio|chinchilla ratio|"
    "tokens to parameters|data to parameter ratio|ratio d n",
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
LONGEST = 2000  # characters of a line that are read: what is longer is no sentence
_LONGEST = 5  # words of a name
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?"
_QUANTITY = re.compile(
    rf"\s*[~≈]?\s*\$?({_NUMBER})(?:\s*[×x]\s*10\^?(-?\d{{1,3}}))?\s*([kKMBT](?![\w/])|million|billion)?"
)
_LARGEST_POWER = 290  # of ten; what is beyond is no figure, and times a scale no float
_SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12, "million": 1e6, "billion": 1e9}
_PAIR = re.compile(rf"([^\W\d][\w /.·-]*?)\s*(?:\([^()]*\))?\s*([:=]|\s)\s*(?=[~≈]?\s*{_NUMBER})")
_BEFORE = re.compile(rf"({_NUMBER}\s*[kKMB]?)\s+(layers|heads|parameters|params)\b")
_BEST = re.compile(r"best so far|new best|\(best\)|\bbest\s*[!✓*]|[★✅]|← ?best", re.IGNORECASE)
# a line of a list, or one that begins with what it is about; in prose a number beside a name may be another's
_LISTED = re.compile(
    r"\s*([-*+•]|\d+[.)])\s|\W*(best|final|initial|lowest)\b|[\w /-]{2,30}:\s", re.IGNORECASE
)
_EPOCH = re.compile(r"^\W*(?:epoch|step|iter|iteration)\W{0,3}\d", re.IGNORECASE)


class Quantity(NamedTuple):
    """A printed number, and half a unit of its last digit."""

    value: float
    error: float


class Key(NamedTuple):
    """What a number stands for; `split` and `when` (best, final, initial) are empty where nothing says so."""

    name: str
    split: str = ""
    when: str = ""


@dataclass
class Group:
    """Figures that stand together: a row of a table, a line, an object of JSON, or the pairs of a section."""

    kind: str  # row, line, json or pairs
    title: str
    values: dict[Key, Quantity]
    number: int
    best: bool = False  # marked as the best so far
    cells: list[str] = field(default_factory=list)

    def get(self, name: str, split: str = "", when: str = "") -> Quantity | None:
        """Return a figure by its name."""
        return self.values.get(Key(name, split, when))


@dataclass
class Claims:
    """What a section says: its groups, and series of groups that belong together (a table, epoch lines)."""

    section: Section
    groups: list[Group] = field(default_factory=list)
    series: list[list[Group]] = field(default_factory=list)


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
        split, when = _qualified(words[:-size], split, when)
        if name in MEASURES:
            return Key(name, split, when)
        plain_setting = not when or when == "final"
        return Key(name) if plain_setting else Key(name, "", when)
    return None


def _qualified(words: list[str], split: str, when: str) -> tuple[str, str]:
    for first in range(len(words)):
        for size in (2, 1):
            kind, name = _WORDS.get(" ".join(words[first : first + size]), ("", ""))
            if kind == "split":
                split = name
            elif kind == "when" and when != "other":
                when = name
    return split, when


def claims_of(root: Section) -> list[Claims]:
    """Return what each section of a document says."""
    return [_claims(section) for section in root.walk()]


def _claims(section: Section) -> Claims:
    claims = Claims(section)
    for number, value in section.data:
        groups = list(_from_json(value, number, section.title))
        claims.groups += groups
        claims.series += [groups] if len(groups) > 1 else []
    for table in section.tables:
        groups = _from_table(table, section.title)
        claims.groups += groups
        claims.series += [groups] if len(groups) > 1 else []
    _from_lines(section, claims)
    return claims


# ---- tables


def _from_table(table: Table, title: str) -> list[Group]:
    if len(table.header) == 2 and not key_of(table.header[1]):  # a list of settings, written as a table
        values: dict[Key, Quantity] = {}
        for name, text in [table.header, *table.rows]:
            _put(values, key_of(name), quantity(text))
        if values:
            return [Group("pairs", title, values, table.number)]
    groups = []
    for at, row in enumerate(table.rows):
        values = {}
        for header, text in zip(table.header, row, strict=True):
            _put_cell(values, header, text)
        label = next((text for text in row if text and quantity(text) is None), row[0] if row else "")
        marked = bool(_BEST.search(" ".join(row)))
        groups.append(Group("row", label, values, table.number + 2 + at, marked, row))
    return [group for group in groups if group.values]


def _put_cell(values: dict[Key, Quantity], header: str, text: str) -> None:
    key, names, parts = key_of(header), header.split("/"), text.split("/")
    if len(names) == len(parts) > 1 and all(map(quantity, parts)):  # d/heads/ff/L: 16/2/64/2
        for name, part in zip(names, parts, strict=True):
            _put(values, key_of(name), quantity(part))
        return
    _put(values, key, quantity(text))


def _put(values: dict[Key, Quantity], key: Key | None, value: Quantity | None) -> None:
    if key is not None and value is not None and key.when != "other":
        values.setdefault(key, value)


# ---- JSON


def _from_json(value: Any, number: int, title: str, depth: int = 0) -> Iterator[Group]:
    """Yield a group for each object; objects that hold the same keys as their neighbours are rows."""
    if depth > DEEPEST:
        return
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from _from_json(item, number, f"{title} {at + 1}".strip(), depth + 1)
        return
    if not isinstance(value, dict):
        return
    values: dict[Key, Quantity] = {}
    rows: list[tuple[str, Any]] = []
    _flatten(value, "", values, rows, depth)
    if values:
        yield Group("json", title, values, number)
    for name, row in rows:
        yield from _from_json(row, number, name, depth + 1)


def _flatten(
    value: dict[str, Any], parent: str, values: dict[Key, Quantity], rows: list[tuple[str, Any]], depth: int
) -> None:
    alike = _alike([item for item in value.values() if isinstance(item, dict)])
    for name, item in value.items():
        if isinstance(item, dict) and not alike and depth < DEEPEST:
            _flatten(item, name, values, rows, depth + 1)
        elif isinstance(item, dict | list):
            rows.append((str(name), item))
        elif not isinstance(item, bool) and isinstance(item, int | float | str):
            key = key_of(f"{parent} {name}") or key_of(str(name))
            text = repr(item) if isinstance(item, float) else str(item)
            _put(values, key, quantity(text) if isinstance(item, int | float) or _is_number(item) else None)


def _is_number(text: str) -> bool:
    match = _QUANTITY.match(text)
    return match is not None and match.end() == len(text)


def _alike(objects: list[dict[str, Any]]) -> bool:
    """Whether objects are rows of one table: two or more with most of their keys in common."""
    if len(objects) < 2:
        return False
    common = set.intersection(*(set(item) for item in objects))
    return bool(common) and 2 * len(common) >= max(len(item) for item in objects)


# ---- lines


def _from_lines(section: Section, claims: Claims) -> None:
    pairs: dict[Key, Quantity] = {}
    first = section.number
    epochs: list[Group] = []
    for line in section.lines:
        values = _from_line(line)
        if not values:
            continue
        if _EPOCH.match(plain(line.text[:LONGEST])):
            epochs.append(Group("line", section.title, values, line.number, bool(_BEST.search(line.text))))
            continue
        claims.groups.append(Group("line", section.title, values, line.number))
        for key, value in values.items():
            first = line.number if not pairs else first
            pairs.setdefault(key, value)
    if pairs:
        claims.groups.append(Group("pairs", section.title, pairs, first))
    claims.groups += epochs
    claims.series += [epochs] if len(epochs) > 1 else []


def _from_line(line: Line) -> dict[Key, Quantity]:
    """Return `key: number`, `key=number` and, in lists and lines of epochs, `key number` and `12 layers`."""
    text = plain(line.text[:LONGEST].replace("|", " , "))
    listed = bool(_LISTED.match(line.text) or _EPOCH.match(text) or " | " in line.text)
    split = when = ""
    values: dict[Key, Quantity] = {}
    end = 0
    for match in _PAIR.finditer(text):
        before = text[end : match.end(1)].lower()
        split, when = _qualified(re.sub(r"[^\w ]+|_", " ", before).split(), split, when)
        if match[2] in ":=" or listed:
            key = key_of(match[1], split, when)
            value = quantity(text[match.end() :])
            _put(values, key, value)
        end = match.end()
    if listed or ":" in text:
        for match in _BEFORE.finditer(text):
            _put(values, key_of(match[2]), quantity(match[1]))
    return values
