"""What the corpus is: whether validation is apart from training, what counts as a target, what is covered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmx.audit.finding import Seen
from lmx.audit.record import experiment_of, fact, number, numbers, passes, setting, windows
from lmx.runs import Run

# share of the validation split's distinct sequences that occur word for word in the train split. WikiText-2's
# own splits share 0.25 % of 13 words and 0.1 % of 50; a generated corpus repeats phrases only (2 % of 13)
SHARED_PASSAGES = 0.01  # of 50 words
SHARED_PHRASES = 0.10  # of 13 words
SHARED_AT_LEAST = 5  # sequences: fewer are a quotation
PASSES = 4  # more add little (Muennighoff et al. 2023, arXiv:2305.16264)
RISE = 0.01  # nats above the best: below it is the noise between two evaluations
HOLDOUTS = {
    "windows": "windows were held out at random, and their neighbours are trained on",
    "none": "the validation split is the train split",
}
HELD_OUT = ("validation", "test")


def validation_overlaps_train(run: Run) -> Iterator[Seen]:
    """Held-out text that is training text: by configuration, by hash, or word for word."""
    fix = "data.packing=stream with the corpus's own splits, or data.validation_files=FILE of other text"
    holdout = setting(run, "data.holdout")
    if holdout in ("windows", "none") and not _holdout_is_idle(run):
        yield Seen(f"data.holdout={holdout}: {HOLDOUTS[holdout]}{_measured(run)}", "data.holdout=documents")
        return
    hashes = {split: fact(run, f"data.splits.{split}.text_sha256") for split in ("train", *HELD_OUT)}
    for split in HELD_OUT:
        if hashes[split] is not None and hashes[split] == hashes["train"]:
            yield Seen(f"the {split} split is the train split: both hash to {str(hashes[split])[:12]}", fix)
            continue
        for words, limit in ((50, SHARED_PASSAGES), (13, SHARED_PHRASES)):
            share, shared, sequences = _shared(run, split, words)
            if shared >= SHARED_AT_LEAST and share >= limit:
                yield Seen(
                    f"{share:.1%} of the {split} split's passages of {words} words ({shared:,} of "
                    f"{sequences:,}) occur word for word in the train split",
                    fix,
                )
                break


def _holdout_is_idle(run: Run) -> bool:
    experiment = experiment_of(run)
    return experiment is not None and "data.holdout" in dict(experiment.useless())


def _measured(run: Run) -> str:
    """What the leak check found, or by how much windows that step less than their length share their text."""
    share, shared, _ = _shared(run, "validation", 50)
    if shared:
        return f"; {share:.1%} of the validation split's passages of 50 words occur in the train split"
    stride, length = number(setting(run, "data.stride")), number(setting(run, "data.sequence_length"))
    if setting(run, "data.packing") == "stride" and stride and length and stride < length:
        return f"; neighbours, {stride:g} tokens apart, share {length - stride:g} of {length:g} tokens"
    return ""


def _shared(run: Run, split: str, words: int) -> tuple[float, int, int]:
    shared = number(fact(run, f"data.overlap.{split}.{words}_words.shared")) or 0
    sequences = number(fact(run, f"data.overlap.{split}.{words}_words.sequences")) or 0
    return (shared / sequences if sequences else 0.0), int(shared), int(sequences)


def padding_in_loss(run: Run) -> Iterator[Seen]:
    """Rows filled up with pads whose prediction counts."""
    packing = setting(run, "data.packing")
    if packing not in ("sentences", "documents") or setting(run, "data.mask_padding") is not False:
        return
    length = number(setting(run, "data.sequence_length"))
    shares = []
    for split in ("train", "validation"):
        rows, tokens = (number(fact(run, f"data.splits.{split}.{name}")) for name in ("windows", "tokens"))
        if rows and tokens and length and rows * (length + 1) > tokens:
            shares.append(f"at least {1 - tokens / (rows * (length + 1)):.1%} of the {split} split's places")
    seen = f", {' and '.join(shares)}" if shares else ""
    yield Seen(
        f"data.mask_padding=false with data.packing={packing}: pads are targets{seen}",
        "data.mask_padding=true",
    )


def not_shuffled(run: Run) -> Iterator[Seen]:
    """The same order in every epoch; with packing=sentences from the longest to the shortest."""
    if setting(run, "data.shuffle") is not False:
        return
    order = "in the order of the corpus"
    if setting(run, "data.packing") == "sentences":
        order = "sorted by length, the longest sentences first"
    yield Seen(f"data.shuffle=false: rows come {order}, in every epoch", "data.shuffle=true")


def not_whole_split(run: Run) -> Iterator[Seen]:
    """An evaluation that left windows out: more than a last batch, or drawn at random."""
    drawn, there = setting(run, "train.eval_windows"), number(fact(run, "data.splits.validation.windows"))
    if drawn is not None:
        of = f" of {there:,.0f}" if there else ""
        yield Seen(
            f"train.eval_windows={drawn}: each evaluation draws {drawn}{of} windows anew",
            "train.eval_windows=null",
        )
        return
    for name, evaluated, there, batch in _coverage(run):
        if there - evaluated >= batch:
            yield Seen(
                f"the {name} evaluation covers {evaluated:,} of {there:,} windows of the validation split",
                "evaluate all of it: python -m lmx.evaluate RUN",
            )
            return


def last_batch_dropped(run: Run) -> Iterator[Seen]:
    """An evaluation that left out less than one batch, at the end."""
    size = number(setting(run, "data.held_out_batch"))
    if size is not None:
        left_out = "the partial window" if size == 1 else f"the windows that fill no whole batch of {size:g}"
        yield Seen(
            f"data.held_out_batch={size:g} leaves out {left_out} at the end", "data.held_out_batch=null"
        )
        return
    for name, evaluated, there, batch in _coverage(run):
        if 0 < there - evaluated < batch and evaluated % batch == 0:
            yield Seen(
                f"the {name} evaluation covers {evaluated:,} of {there:,} windows: the last batch of "
                f"{there - evaluated} is missing, so the figure depends on the batch size of {batch}",
                "evaluate all of it: python -m lmx.evaluate RUN",
            )
            return


def _coverage(run: Run) -> Iterator[tuple[str, int, int, int]]:
    """Yield (best or last, windows evaluated, windows of the split, evaluation batch)."""
    there = number(fact(run, "data.splits.validation.windows"))
    sizes = ("train.eval_batch_size", "hardware.micro_batch_size", "train.batch_size")
    batch = next((size for key in sizes if (size := number(setting(run, key)))), 1.0)
    for name in ("best", "last"):
        losses = windows(run, name)
        evaluated = 0 if losses is None else int((losses.tokens > 0).sum())
        if losses is not None and there is not None and evaluated < there:
            yield name, evaluated, int(there), int(batch)


def no_test_split(run: Run) -> Iterator[Seen]:
    """One held-out split that chooses the best weights and reports them."""
    splits: Any = fact(run, "data.splits")
    best = setting(run, "checkpoint.best")
    if isinstance(splits, dict) and "validation" in splits and "test" not in splits and best is not None:
        yield Seen(
            f"no test split, and checkpoint.best={best} chooses on the validation split that is reported",
            "a corpus with a test split, or checkpoint.best=null and the last evaluation",
        )


def many_passes(run: Run) -> Iterator[Seen]:
    """More than four passes over the corpus, and validation rises again."""
    count = passes(run)
    steps, losses = numbers(run, "val/loss")
    if count is None or count <= PASSES or not len(losses):
        return
    best = int(losses.argmin())
    if losses[-1] - losses[best] > RISE:
        yield Seen(
            f"{count:.1f} passes over the corpus; val/loss rose from {losses[best]:.4f} at step "
            f"{steps[best]:,} to {losses[-1]:.4f} at step {steps[-1]:,}",
            "more text, a smaller model, or the end at the best: train.horizon="
            f"{max(1, int(steps[best]))}steps (callbacks=early_stopping ends there by itself)",
        )
