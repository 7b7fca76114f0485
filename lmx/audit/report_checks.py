"""What in a report contradicts itself: its figures against each other."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from lmx.audit.claims import Claims, Group
from lmx.audit.names import Key, Quantity
from lmx.audit.reading import Reading, is_point, is_result
from lmx.measure import log_predictive_integrity

SLACK = 1e-3  # relative, on top of rounding: means over steps are not means over epochs
INTEGRITY = 0.05  # relative: exp of a mean against a mean of exp
COLLAPSED = 0.1  # entropy over loss, as for runs
UNSURE = 0.5  # nats: a model with this loss cannot be certain everywhere
FAR = 0.05  # of ln V
_SMOOTHED = re.compile(r"ema[_ ]beta\W{1,5}0?\.\d*[1-9]", re.IGNORECASE)
FINE = 5e-5  # half a unit of the fourth decimal: coarser figures agree by chance


class Wrong(NamedTuple):
    """One contradiction, and the line where it stands."""

    number: int
    text: str


Looked = Iterator[Wrong | None]  # one item for each comparison made; None where the figures agree


def perplexity(reading: Reading) -> Looked:
    """Perplexity must be exp of the loss beside it."""
    for _, group in reading.groups():
        for key, value in group.values.items():
            partners = _losses(group, key) if key.name == "ppl" and value.value > 0 else []
            if not partners:
                continue
            if any(_is_exp(value, loss) for loss in partners):
                yield None
                continue
            loss = partners[0].value
            yield Wrong(
                group.number,
                f"{name_of(group)}perplexity {value.value:,.6g} beside a loss of {loss:g}, whose exp is "
                f"{math.exp(loss):,.6g}",
            )


def _losses(group: Group, key: Key) -> list[Quantity]:
    """The losses that a perplexity may belong to: cross-entropy before a mixed loss."""
    named = any(k.name == "ppl" and k.split and k.when == key.when for k in group.values)  # has the loss then
    for name in ("ce", "loss"):
        splits = (key.split,) if key.split else (("",) if named else ("val", "", "train", "test"))
        found = [group.get(name, split, key.when) for split in splits]
        if key.split and found == [None]:
            found = [group.get(name, "", key.when)]
        known = [value for value in found if value is not None and abs(value.value) < 100]
        if known:
            return known
    return []


def _is_exp(perplexity: Quantity, loss: Quantity) -> bool:
    low, high = (
        math.exp(loss.value - loss.error) * (1 - SLACK),
        math.exp(loss.value + loss.error) * (1 + SLACK),
    )
    return perplexity.value + perplexity.error >= low and perplexity.value - perplexity.error <= high


def best(reading: Reading) -> Looked:
    """A figure called best must be the lowest of its series; so must a line marked as best so far."""
    for claims, series in reading.series():
        points = [group for group in series if is_point(group)]
        yield from _marked(points)
        for key in (Key("loss", "val"), Key("ppl", "val"), Key("loss"), Key("ppl")):
            curve = [group.values[key] for group in points if key in group.values]
            if len(curve) > 1:
                yield from _claimed_best(reading, claims, points, key, curve)


def _claimed_best(
    reading: Reading, claims: Claims, points: list[Group], key: Key, curve: list[Quantity]
) -> Looked:
    lowest, highest = min(curve), max(curve)
    every = _every_epoch(points)
    inside = {id(point) for point in points}
    for other, group in reading.bests:
        value = group.values.get(key._replace(when="best")) or group.values.get(Key(key.name, "", "best"))
        if value is None or id(group) in inside or not _near(reading, claims, other):
            continue
        margin = value.error + lowest.error + SLACK * abs(lowest.value)
        if value.value <= lowest.value + margin and (value.value >= lowest.value - margin or not every):
            yield None
        else:
            by_max = ", the highest: chosen by max" if abs(value.value - highest.value) <= margin else ""
            yield Wrong(
                group.number,
                f"the best {_words(key)} is given as {value.value:g}{by_max}; the lowest of the table is "
                f"{lowest.value:g}",
            )


def _near(reading: Reading, first: Claims, second: Claims) -> bool:
    """Whether two sections speak of one experiment; a summary does of the only one there is."""
    names = reading.experiment(first.section), reading.experiment(second.section)
    return first is second or names[0] == names[1] is not None or (None in names and len(reading.curves) == 1)


def _every_epoch(points: list[Group]) -> bool:
    epochs = [value.value for group in points if (value := group.get("epoch"))]
    return len(epochs) == len(points) and epochs == list(range(1, len(points) + 1))


def _marked(points: list[Group]) -> Looked:
    key = next(
        (key for key in (Key("ppl", "val"), Key("loss", "val"), Key("loss")) if _all_have(points, key)), None
    )
    if key is None or not any(group.best for group in points):
        return
    lowest = math.inf
    for group in points:
        value = group.values[key]
        if group.best and value.value > lowest + value.error:
            yield Wrong(
                group.number,
                f"{_words(key)} {value.value:g} is marked as the best, after {lowest:g} before it",
            )
        else:
            yield None
        lowest = min(lowest, value.value)


def _all_have(points: list[Group], key: Key) -> bool:
    return bool(points) and all(key in group.values for group in points)


def integrity(reading: Reading) -> Looked:
    """PI must be exp(−(αH + γG)) of the entropy and the gradient norm beside it; a smoothed one is later."""
    smoothed = _SMOOTHED.search(reading.text)
    for claims, group in reading.groups():
        pi, entropy, norm = (
            group.get(name) or group.get(name, "train") for name in ("pi", "entropy", "grad_norm")
        )
        if pi is None or norm is None or pi.value <= 0:
            continue
        settings = reading.settings(claims, group)
        alpha = settings["alpha"].value if "alpha" in settings else 1.0
        gamma = settings["gamma"].value if "gamma" in settings else 1.0
        without = close(pi, _integrity(0.0, norm.value, alpha, gamma), INTEGRITY)
        loss = _any_loss(group)
        if (
            without
            and loss is not None
            and loss.value > UNSURE
            and (entropy is None or entropy.value < COLLAPSED)
        ):
            yield Wrong(
                group.number,
                f"PI {pi.value:g} is exp(−G) alone at G {norm.value:g}: the entropy in it was zero, "
                f"beside a loss of {loss.value:g}",
            )
        elif entropy is not None and not smoothed:
            whole = _integrity(entropy.value, norm.value, alpha, gamma)
            alone = ", which is exp(−G) alone: the entropy in it was zero" if without else ""
            yield (
                None
                if close(pi, whole, INTEGRITY)
                else Wrong(
                    group.number,
                    f"PI {pi.value:g}{alone}; exp(−(αH + γG)) of H {entropy.value:g} and G "
                    f"{norm.value:g} is {whole:.3g}",
                )
            )


def _integrity(entropy: float, norm: float, alpha: float, gamma: float) -> float:
    return math.exp(max(-700.0, log_predictive_integrity(entropy, norm, alpha, gamma)))


def entropy(reading: Reading) -> Looked:
    """Entropy per token is near the loss; zero beside a loss of several nats has another denominator."""
    for _, group in reading.groups():
        value, loss = group.get("entropy") or group.get("entropy", "train"), _any_loss(group)
        if value is None or loss is None or loss.value < 0.1 or group.kind == "pairs":
            continue
        wrong = value.value + value.error < COLLAPSED * loss.value
        yield (
            Wrong(
                group.number,
                f"{name_of(group)}entropy {value.value:g} beside a loss of {loss.value:g} nats a token",
            )
            if wrong
            else None
        )


def _any_loss(group: Group) -> Quantity | None:
    return group.get("loss", "train") or group.get("loss", "val") or group.get("loss")


def equal_losses(reading: Reading) -> Looked:
    """Train and validation loss that are one number again and again."""
    for _, series in [
        *reading.series(),
        *((c, [g]) for c in reading.claims for g in c.groups if g.kind == "pairs"),
    ]:
        found = [(group, group.get("loss", "train"), group.get("loss", "val")) for group in series]
        both = [(g, t, v) for g, t, v in found if t and v and t.error <= 10 * FINE]
        same = [(g, t) for g, t, v in both if t.value == v.value]
        if both and (len(same) >= 2 or (len(same) == len(both) and same[0][1].error <= FINE)):
            group, value = same[0]
            yield Wrong(
                group.number,
                f"train and validation loss are equal in {len(same)} of {len(both)} rows, "
                f"such as {value.value:g}",
            )
        elif both:
            yield None


def identical(reading: Reading) -> Looked:
    """Different experiments with one result to four decimals."""
    for _, series in reading.series():
        rows = [group for group in series if is_result(group) and not is_point(group)]
        yield from _twins([(group.title, group) for group in rows])
    apart = [
        (name, group) for claims, group in reading.groups()
        if group.kind == "pairs" and is_result(group) and (name := reading.experiment(claims.section))
    ]  # fmt: skip
    yield from _twins(apart)


def _twins(named: list[tuple[str, Group]]) -> Looked:
    first: dict[tuple[Key, float], tuple[str, Group]] = {}
    for name, group in named:
        for key, value in group.values.items():
            if (
                key.name != "loss"
                or key.split == "train"
                or key.when == "initial"
                or not 0 < value.error <= FINE
            ):
                continue
            other, twin = first.setdefault((key, value.value), (name, group))
            if other.lower() != name.lower():
                yield Wrong(group.number, f"{name} and {other} have the same {_words(key)}, {value.value:g}")
            elif twin is group:
                yield None


def initial_loss(reading: Reading) -> Looked:
    """A model that knows nothing has a loss of ln V."""
    if any(word in reading.lower for word in ("fine-tun", "finetun", "pretrained")):
        return
    for claims, group in reading.groups():
        start = group.get("step") or group.get("epoch")
        at_zero = start is not None and start.value == 0
        losses = [
            loss
            for key, loss in group.values.items()
            if key.name == "loss" and (key.when == "initial" or at_zero)
        ]
        given = reading.settings(claims, group).get("vocab_size") if losses else None
        vocab = given.value if given is not None else reading.named_vocabulary
        for loss in losses if vocab and vocab > 1 else ():
            expected = math.log(vocab or 1)
            text = (
                f"the initial loss is {loss.value:g}, {loss.value / expected:.2g} times ln V = {expected:.2f}"
            )
            yield None if abs(loss.value / expected - 1) <= FAR else Wrong(group.number, text)


def close(claimed: Quantity, computed: float, slack: float) -> bool:
    """Whether a printed number is the computed one, within its digits and a relative slack."""
    return abs(claimed.value - computed) <= claimed.error + slack * abs(computed)


def name_of(group: Group) -> str:
    """Begin a sentence with the row that it is about."""
    return f"{group.title}: " if group.kind in ("row", "json") and group.title else ""


def _words(key: Key) -> str:
    names = {"val": "validation", "ppl": "perplexity"}
    return f"{names.get(key.split, key.split)} {names.get(key.name, key.name)}".strip()
