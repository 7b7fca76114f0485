"""What differs between runs: the settings that change what is computed, each as one knob."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import MISSING

from lmx.audit.record import fact, label, number, setting, targets
from lmx.config import Experiment
from lmx.config.fields import schema_defaults
from lmx.runs import Run

# where a run lands, what is written about it, and what cannot change a result
_SILENT = ("name", "paths", "resume", "logger", "callbacks", "checkpoint", "hardware", "seed")
_SILENT_KEYS = frozenset(
    (
        *("train.horizon", "train.log_every_steps", "train.eval_every_steps", "train.eval_at_start"),
        *(
            "train.eval_batch_size",
            "data.num_workers",
            "data.local_dir",
            "data.timeout_seconds",
            "data.streaming",
        ),
        *("model.vocab_size", "model.context_length", "model.activation_checkpointing"),
    )
)
_SIZE = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim")
_CORPUS = (
    *("source", "repository", "subset", "revision", "splits", "files", "validation_files", "stories"),
    *("story_seed", "held_out_stories", "text_field", "max_documents", "max_held_out_documents", "holdout"),
    *("validation_fraction", "min_characters", "collapse_whitespace"),
)
LONGEST_NAME = 48  # characters of an arm's name; longer ones are not read
_MIX = ("objective.alpha", "objective.temperature", "objective.top_k")
RATES = ("optimizer.lr", "optimizer.rest.lr")


def knobs(run: Run) -> dict[str, str]:
    """Return knob → its value as text. Settings that follow from one choice are one knob.

    The sizes of a model are one, its feed-forward, a corpus, a tokenizer; an optimizer is with its options
    but without its rates. Where a run lands, what it logs, its seed and its machine are none; its length is
    judged by tokens.
    """
    found: dict[str, str] = {}
    joined: dict[str, dict[str, Any]] = {}
    for key, value in {**_defaults(), **_flat(run.config)}.items():
        group, _, name = key.partition(".")
        if group in _SILENT or key in _SILENT_KEYS or name == "name":
            continue
        choice = _choice(group, name)
        if name == "intermediate_size":
            value = _ratio(run)
        if choice is None:
            found[key] = _text(value)
        else:
            joined.setdefault(choice, {})[name] = value
    texts = {
        choice: _text({k: v for k, v in values.items() if v is not None}) for choice, values in joined.items()
    }
    return found | _objective(run) | texts


def _choice(group: str, name: str) -> str | None:
    """The knob that a setting belongs to, where it is not one by itself."""
    if group == "model" and name in _SIZE:
        return "model size"
    if group == "model" and name in ("activation", "intermediate_size"):
        return "feed-forward"
    if group == "data" and name in _CORPUS:
        return "corpus"
    if group == "tokenizer":
        return "tokenizer"
    if group == "schedule":
        return "schedule"
    if group == "optimizer" and name not in ("lr", "rest.lr"):
        return "optimizer"
    return None


def _ratio(run: Run) -> float | None:
    """The feed-forward's width as a multiple of the model's, so that it does not count twice in its size."""
    inner, width = number(setting(run, "model.intermediate_size")), number(setting(run, "model.hidden_size"))
    return round(inner / width, 2) if inner and width else None


def _objective(run: Run) -> dict[str, str]:
    """Settings of an objective count only where they have an effect."""
    mixes = setting(run, "objective.kind") == "cosine_mix" and setting(run, "objective.alpha") != 0
    return {} if mixes else {"objective.kind": "cross_entropy", **dict.fromkeys(_MIX, "none")}


@cache
def _defaults() -> dict[str, Any]:
    """Values of keys that an older run's configuration does not have: the choice it had no other for."""
    return {key: value for key, value in _flat(schema_defaults(Experiment)).items() if value != MISSING}


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """`group.key` → value; `optimizer.rest.lr` apart from the other options of the rest."""
    flat: dict[str, Any] = {}
    for group, value in config.items():
        if not isinstance(value, dict):
            flat[str(group)] = value
            continue
        flat |= {f"{group}.{key}": item for key, item in value.items()}
    rest = flat.get("optimizer.rest")
    if isinstance(rest, dict) and "lr" in rest:
        flat["optimizer.rest"] = {key: item for key, item in rest.items() if key != "lr"}
        flat["optimizer.rest.lr"] = rest["lr"]
    return flat


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def seed_of(run: Run) -> Any:
    """The seed of a run."""
    return run.config.get("seed", run.identity.get("seed"))


@dataclass(frozen=True)
class Arm:
    """The runs of one configuration, which differ in their seeds alone."""

    values: dict[str, str]
    runs: list[Run]
    title: str

    @property
    def seeds(self) -> frozenset[Any]:
        """The distinct seeds."""
        return frozenset(str(seed_of(run)) for run in self.runs)

    @property
    def tokens(self) -> float | None:
        """Tokens that its runs were trained on; the least, None where one does not say."""
        found = [number(run.last("tokens")) for run in self.runs]
        known = [value for value in found if value is not None]
        return min(known) if len(known) == len(found) and known else None

    def differs(self, other: Arm) -> list[str]:
        """The knobs that are not the same; what belongs to another optimizer or objective comes with it."""
        keys = self.values.keys() | other.values.keys()
        found = sorted(key for key in keys if self.values.get(key) != other.values.get(key))
        if "optimizer" in found:
            found = [key for key in found if key not in RATES]
        if "objective.kind" in found:
            found = [key for key in found if key not in _MIX]
        return found


def arms(runs: Sequence[Run]) -> list[Arm]:
    """Group runs by what they compute, in the order given; each arm is named by what sets it apart."""
    groups: dict[str, tuple[dict[str, str], list[Run]]] = {}
    for run in runs:
        values = knobs(run)
        # two runs of other lengths are two arms
        length = _text([values, setting(run, "train.horizon")])
        groups.setdefault(length, (values, []))[1].append(run)
    names = _names(list(groups.values()))
    return [
        Arm(values, members, name) for name, (values, members) in zip(names, groups.values(), strict=True)
    ]


def _names(groups: list[tuple[dict[str, str], list[Run]]]) -> list[str]:
    """Call each arm by its experiment's name, by what varies, or by its folder: the first that tells."""
    firsts = [members[0] for _, members in groups]
    varying = _varying([values for values, _ in groups])
    by_name = [run.name for run in firsts]
    by_value = [_title(values, members[0], varying) for values, members in groups]
    for names in (by_name, by_value):
        if len(set(names)) == len(names) and max(map(len, names), default=0) <= LONGEST_NAME:
            return names
    labels = [label(run) for run in firsts]  # the same for copies of one folder
    return [name if labels.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(labels, 1)]


def _varying(all_values: list[dict[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for values in all_values for key in values)
    return [key for key in keys if len({values.get(key) for values in all_values}) > 1]


def _title(values: dict[str, str], run: Run, varying: list[str]) -> str:
    """Short settings by value, long ones by the name of their preset: `muon, lr=0.02`."""
    parts = []
    for key in varying:
        if key == "optimizer":
            parts.append(targets(setting(run, "optimizer.update")) or "optimizer")
        elif key == "model size":
            total = number(fact(run, "parameters.total"))
            parts.append(f"{total / 1e6:.2f}M parameters" if total else str(setting(run, "model.name")))
        elif key == "feed-forward":
            parts.append(str(setting(run, "model.activation")))
        elif key in ("corpus", "tokenizer", "schedule"):
            parts.append(str(setting(run, f"{'data' if key == 'corpus' else key}.name")))
        elif key != "optimizer.rest.lr":
            parts.append(f"{key.rpartition('.')[2]}={values.get(key, 'null').strip(chr(34))}")
    return ", ".join(parts) or run.name
