"""Whether a difference between runs can be put down to what was changed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from lmx.audit.finding import Seen
from lmx.audit.knobs import RATES, Arm, seed_of
from lmx.audit.record import fact, label, numbers, setting, steps_done
from lmx.measure import amount
from lmx.runs import Run

Arms = list[Arm]
TOKENS = 0.01  # relative: the last, partial batch of an epoch makes less
# settings that choose which targets of a text count in its loss, or how, and the value that changes nothing
EVALUATION = {
    "train.eval_windows": "null",
    "train.eval_mean": "tokens",
    "data.held_out_batch": "null",
    "data.mask_padding": "true",
}
PADDED = ("sentences", "documents")  # packings with padding
FEW_UPDATES = 100  # beneath, the warm-up of AdamW's second moment alone (1/(1 − 0.999)) is not over by far
SHOWN = 6  # names in a sentence


def unequal_tokens(arms: Arms) -> Iterator[Seen]:
    """Arms that read different amounts of text."""
    known = {arm.title: arm.tokens for arm in arms if arm.tokens}
    if len(known) < 2 or max(known.values()) <= min(known.values()) * (1 + TOKENS):
        return
    least = min(known.values())
    yield Seen(
        f"tokens trained on differ by a factor of {max(known.values()) / least:.2f}: "
        + _listed(f"{title} {amount(tokens)}" for title, tokens in known.items()),
        f"train.horizon={least:.0f}tokens in every arm, or rank at {amount(least)} tokens",
    )


def different_tokenizers(arms: Arms) -> Iterator[Seen]:
    """Perplexity is per token: another tokenizer is another unit."""
    found = _by_fact(arms, "tokenizer.fingerprint")
    if len(found) > 1:
        names = _listed(f"{_titles(group)} {value}" for value, group in found.items())
        yield Seen(
            f"{len(found)} tokenizers: {names}",
            "compare val/bits_per_byte or val/word_perplexity, not val/loss or val/perplexity",
        )


def different_validation(arms: Arms) -> Iterator[Seen]:
    """Figures of different texts, or of one text measured in different ways."""
    found = _by_fact(arms, "data.splits.validation.text_sha256")
    if len(found) > 1:
        names = _listed(f"{_titles(group)} {value[:8]}" for value, group in found.items())
        yield Seen(
            f"{len(found)} validation texts: {names}",
            "evaluate all of them on one: data.validation_files=FILE",
        )
    for key, fair in EVALUATION.items():
        values: dict[str, list[str]] = {}
        for arm in arms:
            if key != "data.mask_padding" or setting(arm.runs[0], "data.packing") in PADDED:
                values.setdefault(arm.values[key], []).append(arm.title)
        if len(values) > 1:
            names = _listed(f"{_titles(group)} {value}" for value, group in values.items())
            yield Seen(f"{key} differs: {names}", f"{key}={fair} in every arm")


def several_knobs(arms: Arms) -> Iterator[Seen]:
    """Arms that differ from every other in two or more settings."""
    found = []
    for arm in arms:
        others = [(changed, other.title) for other in arms if (changed := arm.differs(other))]
        if others and min(len(changed) for changed, _ in others) > 1:
            changed, nearest = min(others, key=lambda item: len(item[0]))
            found.append(f"{arm.title} differs from its nearest, {nearest}, in {', '.join(changed)}")
    if found:
        shown = found[:1] if len(arms) == 2 else found  # of two, each is the other's nearest
        yield Seen(
            f"{len(found)} of {len(arms)} arms differ from every other in more than one setting: "
            f"{_listed(shown, most=3)}",
            "add the arms between them, which change one setting each",
        )


def one_seed(arms: Arms) -> Iterator[Seen]:
    """Two seeds of one configuration differ too; without them a difference has no scale."""
    single = [arm.title for arm in arms if len(arm.seeds) == 1]
    if single and len(arms) > 1:
        which = f"each of {len(arms)} arms" if len(single) == len(arms) else _listed(single)
        yield Seen(f"one seed in {which}", "-m seed=1,2,3 in every arm")


def untuned_rate(arms: Arms) -> Iterator[Seen]:
    """Optimizers at rates that were not looked for on both sides."""
    sides: dict[str, tuple[str, set[str]]] = {}
    for arm in arms:
        rest = sorted(item for item in arm.values.items() if item[0] not in RATES)
        sides.setdefault(str(rest), (_side(arm), set()))[1].add(arm.values.get("optimizer.lr", ""))
    counts = [(title, len(rates)) for title, rates in sides.values()]
    optimizers = {arm.values.get("optimizer") for arm in arms}
    few = [title for title, count in counts if count < 2]
    if len(sides) < 2 or not few or (len(optimizers) < 2 and len(few) == len(sides)):
        return
    tried = _listed(f"{title}: {count}" for title, count in counts)
    untuned = "every side" if len(few) == len(counts) else _listed(few)
    yield Seen(
        f"learning rates tried: {tried}; untuned: {untuned}",
        "sweep optimizer.lr on every side and compare each at its best",
    )


def _side(arm: Arm) -> str:
    parts = [part for part in arm.title.split(", ") if not part.startswith("lr=")]
    return ", ".join(parts) or arm.title


def different_order(arms: Arms) -> Iterator[Seen]:
    """Arms that met the same text in another order, for no seed is common to them."""
    for first, second in combinations(arms, 2):
        if first.seeds != second.seeds:
            yield Seen(
                f"{first.title} ran with seeds {_listed(sorted(first.seeds))}, {second.title} with "
                f"{_listed(sorted(second.seeds))}: other batches, other initial weights",
                "the same seeds in every arm: -m seed=1,2,3",
            )
            return
    shuffled = {arm.values.get("data.shuffle") for arm in arms}
    if len(shuffled) > 1:
        yield Seen("data.shuffle differs between the arms", "data.shuffle=true in every arm")


def different_hardware(arms: Arms) -> Iterator[Seen]:
    """Seconds of different machines, roundings of different precisions."""
    for key in ("device_name", "devices", "precision", "threads", "compile"):
        found = _by_fact(arms, f"hardware.{key}")
        if len(found) > 1:
            names = _listed(f"{_titles(group)} {value}" for value, group in found.items())
            yield Seen(f"hardware.{key} differs: {names}", "run every arm on one machine with one hardware=…")


def identical_results(arms: Arms) -> Iterator[Seen]:
    """Different settings with results that agree to the last digit: the setting did nothing."""
    curves: dict[tuple[tuple[int, float], ...], tuple[Arm, Run]] = {}
    alike: dict[str, list[tuple[str, int, float]]] = {}  # what differs → who, evaluations, the last of them
    for arm in arms:
        for run in arm.runs:
            steps, losses = numbers(run, "val/loss")
            curve = tuple(zip(steps[steps > 0].tolist(), losses[steps > 0].tolist(), strict=True))
            if not curve:
                continue
            other, twin = curves.setdefault(curve, (arm, run))
            changed = arm.differs(other) or _apart(run, twin)
            if changed:
                names = (run.name, twin.name) if arm is other else (arm.title, other.title)
                who = " and ".join(names) if names[0] != names[1] else f"two runs of {names[0]}"
                alike.setdefault(", ".join(changed), []).append((who, len(curve), curve[-1][1]))
    for keys, found in alike.items():
        others = list(dict.fromkeys(who for who, *_ in found))[1:]
        who, count, last = found[0]
        rest = f"; so do {_listed(others)}" if others else ""
        yield Seen(
            f"{who} differ in {keys}, and their {count} evaluations after step 0 are the same numbers "
            f"(last val/loss {last!r}){rest}",
            "look whether the changed setting reaches the model: python -m lmx.audit RUN",
        )


def _apart(run: Run, twin: Run) -> list[str]:
    """What is said to set two runs of one configuration apart; nothing for a copy of the same run."""
    return ["seed"] * (seed_of(run) != seed_of(twin)) or ["name alone"] * (run.name != twin.name)


def few_updates(arms: Arms) -> Iterator[Seen]:
    """A comparison after a handful of updates."""
    done = {arm.title: min(steps_done(run) for run in arm.runs) for arm in arms}
    few = {title: steps for title, steps in done.items() if steps < FEW_UPDATES}
    if len(arms) > 1 and few:
        yield Seen(
            f"{_listed(f'{title}: {steps} updates' for title, steps in few.items())}",
            f"train.horizon={FEW_UPDATES * 10}steps",
        )


def unfinished_arms(arms: Arms) -> Iterator[Seen]:
    """Runs that ended before their end, beside others."""
    runs = [run for arm in arms for run in arm.runs]
    ended = [
        f"{label(run)} ({run.status} at step {steps_done(run):,})"
        for run in runs
        if run.status != "completed"
    ]
    if ended and len(runs) > 1:
        yield Seen(
            f"{len(ended)} of {len(runs)} runs are not completed: {_listed(ended)}", "finish them: resume=RUN"
        )


def different_code(arms: Arms) -> Iterator[Seen]:
    """Runs of different versions of the code or of torch."""
    for key in ("git.commit", "versions.torch", "versions.lmx"):
        found = _by_fact(arms, key)
        if len(found) > 1:
            names = _listed(f"{_titles(group)} {value[:12]}" for value, group in found.items())
            yield Seen(f"{key} differs: {names}", "run every arm with one version")
            return


def _by_fact(arms: Arms, key: str) -> dict[str, list[str]]:
    """Return value → the arms with a run that recorded it; runs that recorded none are left out."""
    found: dict[str, list[str]] = {}
    for arm in arms:
        values: list[Any] = [fact(run, key) for run in arm.runs]
        for value in dict.fromkeys(str(value) for value in values if value is not None):
            found.setdefault(value, []).append(arm.title)
    return found


def _titles(names: list[str]) -> str:
    return _listed(names, most=2).replace("; ", ", ")


def _listed(items: Any, most: int = SHOWN) -> str:
    names = list(items)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more
