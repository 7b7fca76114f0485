"""What in a report does not add up: parameters, tokens, steps and schedules."""

from __future__ import annotations

import re
from functools import cache
from itertools import product

import numpy as np

from lmx.audit.claims import BASELINE, Claims, Group
from lmx.audit.reading import Reading, is_point, is_result
from lmx.audit.report_checks import Looked, Wrong, close, name_of
from lmx.config import ModelConfig
from lmx.measure import parameter_counts

_GATED, _UNGATED = re.compile(r"swiglu|geglu"), re.compile(r"\brelu|\bgelu|not gated|no gate|ungated")
_LEARNED, _NOT_LEARNED = (
    re.compile(r"learned pos|positional embedding"),
    re.compile(r"\brope\b|rotary|alibi|nope\b"),
)
ARITHMETIC = 0.02  # relative, for products of steps, batches and lengths: a last batch may be partial
RATIO = 0.03
COUNT = 5e-3  # relative, for parameters: norms and biases that a report does not mention
SIZE = ("hidden_size", "num_layers", "num_heads", "head_dim", "intermediate_size")
SIZES = ("num_heads", "num_kv_heads", "head_dim", "intermediate_size", "sequence_length")
CONTEXTS = (256, 512, 1024, 2048)  # of learned positions, where a report does not say
HEAD_DIMS = (64, 128, 256)  # where the heads do not divide the width and a report does not say
WIDEST = 1e7  # no dimension is larger: a misread number
LONG = 1e15  # beyond any count of tokens or parameters: a misread number


def tokens_per_parameter(reading: Reading) -> Looked:
    """D/N must be train tokens over parameters."""
    for claims, group in reading.groups():
        ratio, settings = group.get("ratio"), reading.settings(claims, group)
        size = settings.get("parameters")
        if ratio is None or size is None or not 0 < size.value < LONG:
            continue
        tokens = {name: settings[name].value for name in ("train_tokens", "tokens") if name in settings}
        if any(close(ratio, count / size.value, RATIO) for count in tokens.values()):
            yield None
            continue
        held = settings.get("validation_tokens")
        if held is not None and close(ratio, held.value / size.value, RATIO):
            right = (
                f"; the train split gives {tokens['train_tokens'] / size.value:.3g}"
                if "train_tokens" in tokens
                else ""
            )
            yield Wrong(
                group.number,
                f"D/N = {ratio.value:g} is the {held.value:,.0f} validation tokens over {size.value:,.0f} "
                f"parameters{right}",
            )
        elif tokens:
            name, count = next(iter(tokens.items()))
            yield Wrong(
                group.number,
                f"D/N = {ratio.value:g}, and {count:,.0f} {name.replace('_', ' ')} over {size.value:,.0f} "
                f"parameters are {count / size.value:.3g}",
            )


def parameters(reading: Reading) -> Looked:
    """The number of parameters must follow from the dimensions, by one of the usual decoders."""
    for claims, group in reading.groups():
        size = group.get("parameters")
        if size is None or size.value < 1000 or group.kind == "line":
            continue
        counts = _possible_counts(
            {name: q.value for name, q in reading.settings(claims, group).items()}, reading
        )
        if not counts:
            continue
        margin = 2 * size.error + COUNT * size.value
        if any(abs(count - size.value) <= margin for count in counts):
            yield None
        else:
            sides = [c for c in counts if c < size.value], [c for c in counts if c > size.value]
            nearest = " and ".join(
                f"{side:,}" for side in (max(sides[0], default=0), min(sides[1], default=0)) if side
            )
            yield Wrong(
                group.number,
                f"{name_of(group)}{size.value:,.0f} parameters; the nearest that a decoder of its dimensions "
                f"has: {nearest}",
            )


def _possible_counts(settings: dict[str, float], reading: Reading) -> frozenset[int]:
    """Parameters of every usual decoder of these dimensions, with the embedding and without."""
    vocab = settings.get("vocab_size") or reading.named_vocabulary or 0.0
    width, layers = settings.get("hidden_size", 0.0), settings.get("num_layers", -1.0)
    sizes = [vocab, width, layers, *(settings.get(name, 0.0) for name in SIZES)]
    if vocab < 2 or width < 1 or layers < 0 or max(sizes) > WIDEST:
        return frozenset()
    # words about one experiment narrow the choice; of several nobody knows which they mean
    words = reading.lower if len(reading.compared) < 2 else ""
    gated = _told(_GATED.search(words), _UNGATED.search(words))
    learned = _told(_LEARNED.search(words), _NOT_LEARNED.search(words))
    return _counts(tuple(map(int, sizes)), gated, learned)


@cache
def _counts(sizes: tuple[int, ...], gated: tuple[bool, ...], learned: tuple[bool, ...]) -> frozenset[int]:
    """Count each combination of what reports leave out: ties, biases, norms, untold gates and positions.

    `sizes`: vocabulary, width, layers, then SIZES in order, 0 where one is not given.
    """
    vocab, width, layers, heads, kv_heads, head_dim, inner, context = sizes
    heads = heads or 1
    if heads % (kv_heads or heads):
        return frozenset()
    head_dims = HEAD_DIMS if not head_dim and width % heads else (head_dim or None,)
    contexts = [context] if context else CONTEXTS
    positions = [*(contexts if True in learned else ()), *([0] if False in learned else ())]
    found = set()
    for gate, biased, qk_norm, head in product(gated, (True, False), (True, False), head_dims):
        model = ModelConfig(
            name="read",
            vocab_size=vocab,
            hidden_size=width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=kv_heads or None,
            head_dim=head,
            intermediate_size=inner or (round(8 * width / 3 / 64) * 64 if gate else 4 * width),
            activation="swiglu" if gate else "gelu",
            position="none",
            attention_bias=biased,
            mlp_bias=biased,
            qk_norm=qk_norm,
            norm="layernorm" if biased else "rmsnorm",
            norm_bias=biased,
        )
        blocks = parameter_counts(model).without_embedding
        for matrix, bias, rows in product((0, vocab * width), (0, vocab), positions):  # of the head
            found |= {blocks + matrix + bias, blocks + matrix + bias + (vocab + rows) * width}
    return frozenset(found)


def _told(yes: object, no: object) -> tuple[bool, ...]:
    """The choices that a text leaves open: both where it names neither, or both."""
    return (True, False) if bool(yes) == bool(no) else (bool(yes),)


def steps(reading: Reading) -> Looked:
    """Steps, batch and length must make the tokens; a curve cannot go on after the last step."""
    for claims in reading.claims:
        own = {
            key.name: group
            for group in claims.groups
            for key in group.values
            if group.kind in ("pairs", "json")
        }
        scope = {name: q.value for name, q in reading.scope(claims.section).items()}
        number = own["total_steps"].number if "total_steps" in own else claims.section.number
        total = scope.get("total_steps")
        if not total:
            continue
        batch = scope.get("batch_size", 0) * scope.get("accumulation", 1) * scope.get("sequence_length", 0)
        tokens = scope.get("tokens")
        if tokens and batch and {"total_steps", "tokens"} & own.keys():
            updates = tokens / batch
            agrees = abs(updates / total - 1) <= ARITHMETIC
            every = f", as if one in {updates / total:.0f} were counted" if updates > 1.5 * total else ""
            yield (
                None
                if agrees
                else Wrong(
                    number,
                    f"{total:,.0f} steps of {batch:,.0f} tokens make {total * batch:,.0f}; "
                    f"{tokens:,.0f} tokens take {updates:,.0f} steps{every}",
                )
            )
        for series in claims.series:
            curve = [value.value for group in series if (value := group.get("step"))]
            if len(curve) > 1:
                over = max(curve) > total * (1 + ARITHMETIC)
                lines = f", the number of its lines ({len(curve)})" if len(curve) == total else ""
                yield (
                    Wrong(
                        number,
                        f"{total:,.0f} steps in all{lines}, and the curve goes on to step {max(curve):,.0f}",
                    )
                    if over
                    else None
                )


def unequal(reading: Reading) -> Looked:
    """Rows that are compared after unequal amounts of text."""
    for claims, series in reading.series():
        rows = [group for group in series if not is_point(group)]
        together = reading.compared or any(is_result(row) or BASELINE.search(row.title) for row in rows)
        if len(rows) < 2 or not together:
            continue
        counts = {group.title: tokens for group in rows if (tokens := _tokens(reading, claims, group))}
        epochs = {group.title: value.value for group in rows if (value := group.get("epochs"))}
        for what, found in (("tokens", counts), ("epochs", epochs)):
            if len(found) < 2 or min(found.values()) <= 0:
                continue
            factor = max(found.values()) / min(found.values())
            names = "; ".join(f"{title} {value:,.4g}" for title, value in list(found.items())[:6])
            yield (
                Wrong(rows[0].number, f"{what} differ by a factor of {factor:.2f}: {names}")
                if factor > 1 + (ARITHMETIC)
                else None
            )
            break


def _tokens(reading: Reading, claims: Claims, group: Group) -> float | None:
    """Tokens of one row, given or computed, where at least one factor is the row's own."""
    own = {key.name for key in group.values}
    settings = {name: q.value for name, q in reading.settings(claims, group).items()}
    if "tokens" in own:
        return settings["tokens"]
    if "tokens" in settings and "total_steps" not in own:  # a budget of tokens: the steps are not those given
        return None
    factors = ("total_steps", "batch_size", "sequence_length")
    if not own & set(factors) or any(name not in settings for name in factors):
        return None
    return float(np.prod([settings[name] for name in factors]) * settings.get("accumulation", 1.0))


def schedule(reading: Reading) -> Looked:
    """A decay over more or fewer steps than there are."""
    seen = set()
    for claims in reading.claims:
        scope = reading.scope(claims.section)
        planned, total = scope.get("schedule_steps"), scope.get("total_steps")
        if planned is None or total is None or not total.value or (planned, total) in seen:
            continue
        seen.add((planned, total))
        yield (
            None
            if abs(planned.value / total.value - 1) <= ARITHMETIC
            else Wrong(
                claims.section.number,
                f"the schedule decays over {planned.value:,.0f} steps and the run has {total.value:,.0f}",
            )
        )


def several_knobs(reading: Reading) -> Looked:
    """Rows of configurations that differ from every other in two or more settings."""
    for _, series in reading.series():
        rows = [(group, _knobs(group)) for group in series if not is_point(group)]
        rows = [(group, knobs) for group, knobs in rows if len(knobs) > 2]
        for group, knobs in rows if len(rows) > 2 else ():
            others = [
                (other.title, _differing(knobs, values)) for other, values in rows if other is not group
            ]
            others = [(title, changed) for title, changed in others if changed]
            title, changed = min(others, key=lambda item: len(item[1]), default=("", []))
            yield (
                None
                if len(changed) < 2
                else Wrong(
                    group.number, f"{group.title} differs from its nearest, {title}, in {', '.join(changed)}"
                )
            )


def _knobs(group: Group) -> dict[str, tuple[float, ...]]:
    """Settings of a row that change what is computed; the sizes of a model are one."""
    values = {key.name: value.value for key, value in group.values.items() if not key.when}
    size = tuple(values[name] for name in SIZE if name in values)
    kept = {
        name: (values[name],) for name in ("lr", "batch_size", "sequence_length", "alpha") if name in values
    }
    return kept | ({"model size": size} if size else {})


def _differing(first: dict[str, tuple[float, ...]], second: dict[str, tuple[float, ...]]) -> list[str]:
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
