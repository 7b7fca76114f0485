"""Prepare, look at and check corpora: `python -m lmx.data prepare data=wikitext2`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmx.config import Experiment
    from lmx.data.corpus import Corpus

SAMPLES = 3
SAMPLE_TOKENS = 60


def parser() -> argparse.ArgumentParser:
    """Return the command line of this door."""
    from lmx.config.door import Parser

    line = Parser(prog="python -m lmx.data", description="Prepare, look at and check corpora.")
    actions = line.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("prepare", "fetch and tokenize the corpus of a configuration, so that runs start at once"),
        ("inspect", "show what is in it: documents, tokens, padding, samples"),
        ("verify", "check every hash of a prepared corpus"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument(
            "overrides", nargs="*", metavar="OVERRIDE", help="as for lmx.train: data=wikitext2"
        )
    return line


def run(arguments: argparse.Namespace) -> int:
    """Compose the configuration and do what was asked."""
    from lmx.config.compose import compose

    experiment = compose(arguments.overrides)
    if arguments.action == "verify":
        return _verify(experiment)
    corpus = _prepared(experiment)
    if arguments.action == "inspect":
        _inspect(corpus)
    else:
        print(corpus.describe())
        print(corpus.store.folder)
    return 0


def _prepared(experiment: Experiment) -> Corpus:
    from lmx.data.corpus import prepare

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    return prepare(experiment.data, experiment.tokenizer, experiment.paths.cache, say)


def _verify(experiment: Experiment) -> int:
    from lmx.config import DataError
    from lmx.data.manifest import open_prepared

    store = open_prepared(experiment.data, experiment.tokenizer, experiment.paths.cache)
    if store is None:
        raise DataError(
            f"data: {experiment.data.name} is not prepared with this tokenizer; see lmx.data prepare"
        )
    problems = store.problems()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{store.folder}: damaged; delete it, it is prepared again when needed", file=sys.stderr)
        return 2
    print(f"{store.folder}: {len(store.manifest['files'])} files, all hashes as written")
    return 0


def _inspect(corpus: Corpus) -> None:
    facts = corpus.facts
    print(f"{facts['name']}  fingerprint {facts['fingerprint']}  packing {facts['packing']}")
    print(f"store      {corpus.store.folder}")
    print(f"tokenizer  {corpus.tokenizer.vocab_size:,} ids, fingerprint {corpus.tokenizer.fingerprint}\n")
    rows: list[tuple[str, ...]] = [("", *corpus.splits)]
    splits = [(facts["splits"][name], windows) for name, windows in corpus.splits.items()]
    T = facts["sequence_length"]
    for label, values in (
        ("documents", [f"{fact['documents']:,}" for fact, _ in splits]),
        ("tokens", [f"{fact['tokens']:,}" for fact, _ in splits]),
        ("bytes", [f"{fact['bytes']:,}" for fact, _ in splits]),
        ("words", [f"{fact['words']:,}" for fact, _ in splits]),
        ("bytes per token", [f"{fact['bytes'] / fact['tokens']:.3f}" for fact, _ in splits]),
        ("longest document, bytes", [f"{fact['longest_document_bytes']:,}" for fact, _ in splits]),
        (f"windows of {T:,}", [f"{len(windows):,}" for _, windows in splits]),
        ("targets that count", [f"{windows.targets:,}" for _, windows in splits]),
        (
            "padding and masked targets",
            [f"{1 - windows.targets / (len(windows) * T):.2%}" for _, windows in splits],
        ),
        ("entropy floor, bits per byte", [_number(windows.floor_bits_per_byte) for _, windows in splits]),
        ("13-word sequences in train", [_shared(facts, name, 13) for name in corpus.splits]),
        ("50-word windows in train", [_shared(facts, name, 50) for name in corpus.splits]),
    ):
        rows.append((label, *values))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for label, *values in rows:
        print(
            f"{label:<{widths[0]}}",
            *(f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True)),
        )
    _samples(corpus)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _shared(facts: dict[str, Any], split: str, size: int) -> str:
    found = facts["overlap"].get(split, {}).get(f"{size}_words")
    return "" if not found else f"{found['shared'] / max(1, found['sequences']):.2%}"


def _samples(corpus: Corpus) -> None:
    windows = corpus.splits["train"]
    for number in range(SAMPLES):
        index = number * len(windows) // SAMPLES
        ids = windows[index]["tokens"][:SAMPLE_TOKENS].tolist()
        print(f"\ntrain window {index:,}: {corpus.tokenizer.decode(ids)!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    from lmx.config.door import guarded

    return guarded(lambda: run(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
