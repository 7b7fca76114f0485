"""Whether the recorded figures agree with each other and with what they claim to measure."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lmx.audit.finding import Seen
from lmx.audit.record import (
    best_step,
    fact,
    model_of,
    number,
    numbers,
    pairs,
    setting,
    steps_done,
    targets,
    tokens_seen,
    vocabulary,
    windows,
)
from lmx.measure import digits, lower_is_better
from lmx.runs import Run

EQUAL = 1e-9  # relative: two different sums of floats agree so far only when they are one
ROUNDED = 1e-4  # relative, for a figure that was rounded when it was written
FAR = 0.05  # of ln V: small logits at the start cost 1 %
LUCK = 40.0  # bits below the corpus's entropy, as the evaluation itself allows
SURE = 1e-4  # nats: what a confidence of 0.9999 leaves
COLLAPSED = 0.1  # entropy over loss: a calibrated model has about 1, an overfitted one about 0.5
CONSTANT = 0.03  # standard deviation over mean of a norm that follows from a matrix's shape alone
CLIPPED = 0.5  # share of the records that lie exactly at the clipping threshold
ENTROPY_SHARE = 0.05  # of PI's exponent: less would drown in rounding
FEW = 3  # records: fewer can agree by chance


def perplexity_not_exp_loss(run: Run) -> Iterator[Seen]:
    """val/perplexity must be exp of val/loss."""
    rows = pairs(run, "val", "step", "val/loss", "val/perplexity")
    rows = rows[rows[:, 1] < 700]  # exp is finite
    wrong = rows[np.abs(rows[:, 2] - np.exp(rows[:, 1])) > ROUNDED * np.exp(rows[:, 1])]
    if len(wrong):
        step, loss, perplexity = wrong[-1]
        yield Seen(
            f"at step {step:,.0f} val/perplexity is {digits(perplexity, ',.2f')} and exp(val/loss) = "
            f"exp({loss:.4f}) is {digits(math.exp(loss), ',.2f')}, in {len(wrong)} of {len(rows)} "
            "evaluations",
            "report exp of the token-weighted mean loss: python -m lmx.evaluate RUN",
        )


def not_token_weighted(run: Run) -> Iterator[Seen]:
    """val/loss must be the sum over windows divided by the tokens of all."""
    if setting(run, "train.eval_mean") == "batches":
        yield Seen("train.eval_mean=batches: the mean of the batches' means", "train.eval_mean=tokens")
        return
    steps, values = numbers(run, "val/loss")
    for name in ("best", "last"):
        losses = windows(run, name)
        if losses is None or losses.tokens.sum() <= 0:
            continue
        at = np.flatnonzero(steps == losses.step)
        if not len(at):
            continue
        weighted, recorded = losses.loss.sum() / losses.tokens.sum(), float(values[at[-1]])
        if abs(weighted - recorded) > ROUNDED * abs(weighted):
            counted = losses.tokens > 0
            means = float((losses.loss[counted] / losses.tokens[counted]).mean())
            as_mean = (
                " (the mean of the windows' means)" if math.isclose(means, recorded, rel_tol=1e-3) else ""
            )
            yield Seen(
                f"at step {losses.step:,} val/loss is {recorded:.6f}{as_mean}, and the windows' sum over "
                f"{losses.tokens.sum():,} tokens gives {weighted:.6f}",
                "divide the sum by its tokens once: python -m lmx.evaluate RUN",
            )
            return


def train_equals_validation(run: Run) -> Iterator[Seen]:
    """Equal to the last digit at several steps: one of them is the other."""
    train = {int(step): loss for step, loss in pairs(run, "train", "step", "train/loss")}
    both = [(int(s), v, train[int(s)]) for s, v in pairs(run, "val", "step", "val/loss") if int(s) in train]
    equal = [(step, value) for step, value, other in both if math.isclose(value, other, rel_tol=EQUAL)]
    if len(equal) >= 2:
        step, value = equal[-1]
        yield Seen(
            f"train/loss and val/loss are the same number at {len(equal)} of {len(both)} steps, such as "
            f"{value!r} at step {step:,}",
            "log the training loss of the updates and the validation loss of the held-out split apart",
        )


def best_by_wrong_direction(run: Run) -> Iterator[Seen]:
    """The weights kept as best must be those of the best evaluation after step 0."""
    monitor, step = setting(run, "checkpoint.best"), best_step(run)
    if not isinstance(monitor, str):
        return
    chosen, right = setting(run, "checkpoint.best_mode"), "min" if lower_is_better(monitor) else "max"
    if chosen in ("min", "max") and chosen != right:
        yield Seen(
            f"checkpoint.best_mode={chosen} for {monitor}, whose better values are at the {right}",
            "checkpoint.best_mode=auto",
        )
        return
    if step is None:
        return
    steps, values = numbers(run, monitor)
    steps, values = steps[steps > 0], values[steps > 0]
    at = np.flatnonzero(steps == step)
    if not len(at):
        return
    lower, kept = lower_is_better(monitor), float(values[at[0]])
    best = int(values.argmin() if lower else values.argmax())
    if kept != values[best]:
        worst = values.max() if lower else values.min()
        how = f", the {'highest' if lower else 'lowest'} of all" if kept == worst else ""
        yield Seen(
            f"`best` is step {step:,} with {monitor} {kept:.4f}{how}; step {steps[best]:,} has "
            f"{values[best]:.4f}, and {'lower' if lower else 'higher'} is better",
            f"take the weights of step {steps[best]:,} or train again with checkpoint.best_mode=auto",
        )


def below_floor(run: Run) -> Iterator[Seen]:
    """No model tells a text in fewer bits than its source needs."""
    steps, excess = numbers(run, "val/excess_bits_per_byte")
    size = number(fact(run, "data.splits.validation.bytes")) or 0.0
    if len(excess) and size * -excess.min() > LUCK:
        at = int(excess.argmin())
        yield Seen(
            f"at step {steps[at]:,} val/bits_per_byte is {-excess[at]:.4f} below the corpus's own entropy",
            "look for validation text in the training text, or bytes counted wrongly",
        )


def initial_loss_far(run: Run) -> Iterator[Seen]:
    """A model that knows nothing yet predicts all tokens alike: ln V nats."""
    size = vocabulary(run)
    if size is None or setting(run, "init_from") is not None:
        return
    start = [loss for step, loss in pairs(run, "val", "step", "val/loss") if step == 0]
    probed = number(fact(run, "self_test.initial_loss"))
    loss = start[0] if start else probed
    if loss is None or abs(loss / math.log(size) - 1) <= FAR:
        return
    ratio = loss / math.log(size)
    cause = "weights that already know the text" if ratio < 1 else "logits too large"
    yield Seen(
        f"the loss before the first update is {loss:.3f}, {ratio:.2f} times ln V = {math.log(size):.3f} of "
        f"{size:,} tokens: {cause} (model.init={setting(run, 'model.init')})",
        "model.init=scaled (standard deviation model.init_std=0.02)",
    )


def no_initial_evaluation(run: Run) -> Iterator[Seen]:
    """A fine-tuned model is judged against the weights it began with."""
    began = setting(run, "init_from")
    evaluated = any(line.get("step") == 0 for line in run.of_kind("val"))
    if began is not None and run.of_kind("val") and not evaluated:
        yield Seen(
            f"init_from={began}, and the first evaluation is at step {run.of_kind('val')[0]['step']:,}",
            "train.eval_at_start=true",
        )


def entropy_denominator(run: Run) -> Iterator[Seen]:
    """Entropy per token lies between about the loss and ln V; another denominator shows at once."""
    size, alpha = vocabulary(run), number(setting(run, "callbacks.predictive_integrity.alpha"))
    if size and alpha and 0.9 <= alpha * size <= 1.1:
        yield Seen(
            f"callbacks.predictive_integrity.alpha={alpha:.4g} is 1 / {size:,}: PI takes the entropy "
            "divided by the vocabulary once more, which leaves exp(−γG)",
            "callbacks.predictive_integrity.alpha=1",
        )
        return
    for kind in ("val", "train"):
        rows = pairs(run, kind, "step", f"{kind}/loss", f"{kind}/entropy")
        rows = rows[rows[:, 1] > 0.1]  # a text known by heart has neither
        if len(rows) < FEW:
            continue
        low = rows[~_certain(run, kind, rows)]
        if len(low) >= FEW and float(np.median(low[:, 2] / low[:, 1])) < COLLAPSED:
            step, loss, entropy = low[0]
            factor = f", {digits(loss / entropy, ',.0f')} times less" if entropy > 0 else ""
            vocab = f" (the vocabulary has {size:,} tokens)" if size and entropy > 0 else ""
            yield Seen(
                f"{kind}/entropy is {entropy:.3g} at step {step:,.0f} where {kind}/loss is {loss:.3f}{factor}"
                f"{vocab}: it is no mean per token",
                "divide the sum of entropies by the number of tokens, not by tokens × vocabulary",
            )
            return
        if size and rows[:, 2].max() > math.log(size) * (1 + ROUNDED):
            yield Seen(
                f"{kind}/entropy reaches {rows[:, 2].max():.3f}, above ln V = {math.log(size):.3f}",
                "divide the sum of entropies by the number of tokens, not of rows",
            )
            return


def _certain(run: Run, kind: str, rows: np.ndarray) -> np.ndarray:
    """Whether the recorded confidence c allows the entropy of each row: no mean of entropies is below −ln c.

    A token's entropy is at least −ln of its largest probability, and −ln is convex. A model that is sure and
    wrong, as one with huge logits is, has an entropy near 0 beside a high loss.
    """
    sure = {int(step): share for step, share in pairs(run, kind, "step", f"{kind}/confidence")}
    least = np.array(
        [-math.log(share) if (share := sure.get(int(step), 0)) > 0 else math.inf for step in rows[:, 0]]
    )
    return np.asarray(rows[:, 2] >= least - SURE)


def integrity_without_entropy(run: Run) -> Iterator[Seen]:
    """log PI must be −(αH + γG) of the entropy and the norm beside it."""
    alpha = number(setting(run, "callbacks.predictive_integrity.alpha"))
    gamma = number(setting(run, "callbacks.predictive_integrity.gamma"))
    rows = pairs(run, "train", "train/entropy", "train/grad_norm", "train/log_pi")
    if len(rows) < FEW or alpha is None or gamma is None:
        return
    entropy, norm, log_pi = alpha * rows[:, 0], gamma * rows[:, 1], -rows[:, 2]
    whole = entropy + norm
    off = np.abs(log_pi - whole) > ENTROPY_SHARE * np.abs(whole)
    if off.mean() < CLIPPED:
        return
    alone = np.abs(log_pi - norm) <= ROUNDED * np.abs(norm) + ROUNDED
    what = "exp(−γG) alone: the entropy in it was zero" if alone[off].all() else "not of these figures"
    at = int(np.flatnonzero(off)[0])
    yield Seen(
        f"log PI is {-log_pi[at]:.4f} where −(αH + γG) = {-whole[at]:.4f}: PI is {what}, in "
        f"{off.sum()} of {len(rows)} records",
        "compute PI from the entropy per token and the gradient norm that are logged beside it",
    )


def gradient_norm_after_update(run: Run) -> Iterator[Seen]:
    """A norm of what is left after clipping, zeroing or orthogonalising is no norm of the gradient."""
    _, norms = numbers(run, "train/grad_norm")
    fix = "measure the norm before clipping and before the optimizer: callbacks.gradient_norm of lmx"
    if len(norms) < FEW:
        return
    if not norms.any():
        yield Seen(f"train/grad_norm is 0 in all {len(norms)} records: taken after zero_grad", fix)
        return
    clip = number(setting(run, "train.clip_grad_norm"))
    at_limit = np.abs(norms - clip) <= ROUNDED * clip if clip else np.zeros(len(norms), bool)
    if clip and at_limit.mean() >= CLIPPED and norms.max() <= clip * (1 + ROUNDED):
        yield Seen(
            f"train/grad_norm never exceeds train.clip_grad_norm={clip:g} and is {clip:g} in "
            f"{at_limit.mean():.0%} of the records: taken after clipping",
            fix,
        )
        return
    yield from _orthogonal_norms(run, fix)


def _orthogonal_norms(run: Run, fix: str) -> Iterator[Seen]:
    """Blocks whose norm stands still at that of orthogonal matrices: Muon's buffer, not the gradient."""
    model = model_of(run)
    if model is None or "uon" not in targets(setting(run, "optimizer.update")):
        return
    width, inner = model.hidden_size, model.intermediate_size
    queries = model.num_heads * model.resolved_head_dim
    values = model.resolved_kv_heads * model.resolved_head_dim
    shapes = [(width, queries)] * 2 + [(width, values)] * 2 + [(width, inner)] * (3 if model.gated else 2)
    expected = math.sqrt(sum(min(shape) for shape in shapes))
    still = []
    for block in range(model.num_layers):
        _, norms = numbers(run, f"train/grad_norm/block_{block:02d}")
        constant = len(norms) >= FEW and norms.std() <= CONSTANT * norms.mean()
        if constant and 0.6 * expected <= norms.mean() <= 1.6 * expected:
            still.append(float(norms.mean()))
    if len(still) == model.num_layers > 0:
        yield Seen(
            f"the gradient norm of every block stands still near {np.mean(still):.1f}, as that of "
            f"orthogonalised matrices of these shapes does (√Σ min(rows, columns) = "
            f"{expected:.1f}): taken after the update",
            fix,
        )


def dead_parameters(run: Run) -> Iterator[Seen]:
    """Parameters without a gradient, by the self-test at the start or by their group's norm."""
    dead = fact(run, "self_test.dead_parameters")
    if isinstance(dead, list) and dead:
        names = ", ".join(map(str, dead[:4])) + (", …" if len(dead) > 4 else "")
        yield Seen(
            f"{len(dead)} parameters get no gradient: {names}", "remove them, or use them in the model"
        )
        return
    lines = run.of_kind("train")
    groups = [name for name in (lines[-1] if lines else {}) if name.startswith("train/grad_norm/")]
    silent = [name for name in groups if len(found := numbers(run, name)[1]) >= FEW and not found.any()]
    _, whole = numbers(run, "train/grad_norm")
    if silent and whole.any():
        names = ", ".join(name.rpartition("/")[2] for name in silent)
        yield Seen(f"the gradient of {names} is 0 in every record", "remove them, or use them in the model")


def part_not_logged(run: Run) -> Iterator[Seen]:
    """A mixed objective whose other part never appears in the record."""
    alpha = number(setting(run, "objective.alpha"))
    if setting(run, "objective.kind") != "cosine_mix" or not alpha or not run.of_kind("train"):
        return
    if not any("cosine" in name for line in run.of_kind("train") for name in line):
        yield Seen(
            f"objective.kind=cosine_mix with alpha {alpha:g}, and no record holds the cosine part",
            "log both parts of the objective apart; lmx does so as train/cosine",
        )


def steps_and_tokens(run: Run) -> Iterator[Seen]:
    """Updates, records and tokens must be counted as what they are."""
    lines, done = run.of_kind("train"), steps_done(run)
    covered = [number(line.get("steps")) for line in lines]
    total = number(fact(run, "total_steps"))
    if total is not None and total == len(lines) != done and done:
        yield Seen(
            f"total_steps is {total:,.0f}, the number of lines, and the last record is of step {done:,}",
            "count updates of the weights",
        )
        return
    known = [value for value in covered if value is not None]
    if len(known) == len(lines) and lines and sum(known) != lines[-1]["step"] and _starts_at_zero(run):
        yield Seen(
            f"the records cover {sum(known):,.0f} updates and the last is of step {lines[-1]['step']:,}",
            "count updates of the weights: each record says how many it covers",
        )
        return
    tokens, batch = tokens_seen(run), number(setting(run, "train.batch_size"))
    length = number(setting(run, "data.sequence_length"))
    if tokens and batch and length and tokens > done * batch * length:
        yield Seen(
            f"{tokens:,.0f} tokens in {done:,} updates of {batch:g} × {length:g}, which make at most "
            f"{done * batch * length:,.0f}",
            "count the targets of each update once",
        )


def _starts_at_zero(run: Run) -> bool:
    """Whether nothing was cut from the log: its first record covers all updates before it."""
    first = run.of_kind("train")[0]
    return not run.problems and number(first.get("steps")) == number(first.get("step"))


def last_loss_of_one_batch(run: Run) -> Iterator[Seen]:
    """A final training loss that is one batch's."""
    lines = run.of_kind("train")
    if run.status != "completed" or len(lines) < 20 or lines[-1].get("steps") != 1:
        return
    losses = numbers(run, "train/loss")[1][-20:]
    if len(losses):
        yield Seen(
            f"the last train/loss {losses[-1]:.4f} is of one batch; the standard deviation of the last "
            f"{len(losses)} records is {losses.std():.4f}",
            "train.log_every_steps=10, or quote the mean of the last records",
        )
