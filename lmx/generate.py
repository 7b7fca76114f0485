"""Write text with a trained run: `python -m lmx.generate RUN --prompt "Once upon a time"`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmx.training.restore import Restored

MOST = 200  # new tokens where the command line does not say


def parser() -> argparse.ArgumentParser:
    """Return the command line of this door."""
    from lmx.config.door import Parser

    line = Parser(prog="python -m lmx.generate", description="Write text with a trained run.")
    line.add_argument(
        "run", metavar="RUN", help="a run folder, such as outputs/storyworld_tiny/2026-01-31_12-00-00_abc123"
    )
    line.add_argument("--prompt", action="append", help="where the text begins; may be given several times")
    line.add_argument("--checkpoint", metavar="FILE", help="a checkpoint file instead of the run's best")
    line.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="default: 200, or what the context holds"
    )
    line.add_argument(
        "--temperature", type=float, default=0.8, metavar="X", help="0: the likeliest token (default 0.8)"
    )
    line.add_argument("--top-k", type=int, metavar="N")
    line.add_argument("--top-p", type=float, metavar="X")
    line.add_argument("--min-p", type=float, metavar="X")
    line.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X")
    line.add_argument("--seed", type=int, default=0, metavar="N")
    return line


def run(arguments: argparse.Namespace) -> int:
    """Print each continuation as it is written, and its share of distinct n-grams."""
    from lmx.measure import distinct_n
    from lmx.training.restore import restore

    restored = restore(arguments.run, arguments.checkpoint, lambda text: print(text, file=sys.stderr))
    for prompt in arguments.prompt or [""]:
        print(f"prompt {prompt!r}, seed {arguments.seed}", file=sys.stderr)
        words = _stream(restored, prompt, arguments).split()
        shares = ", ".join(f"distinct-{n} {distinct_n(words, n):.3f}" for n in (1, 2))
        print(shares, file=sys.stderr)
    return 0


def _stream(restored: Restored, prompt: str, arguments: argparse.Namespace) -> str:
    """Print a prompt and its continuation, whole characters as they are complete; return the latter."""
    from lmx.model import GenerationOptions, generate

    tokenizer = restored.tokenizer
    eos = tokenizer.eos_id
    start = tokenizer.encode(prompt) or [eos or 0]  # an empty prompt begins where a document does
    room = restored.model.context_length - len(start)
    options = GenerationOptions(
        max_new_tokens=max(1, min(MOST, room))
        if arguments.max_new_tokens is None
        else arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
        stop_tokens=() if eos is None else (eos,),
    )
    new: list[int] = []
    shown = ""

    def show(row: int, token: int) -> None:
        nonlocal shown
        if token == eos:
            return
        new.append(token)
        text = tokenizer.decode(new)
        if not text.endswith("\ufffd"):  # a character of several tokens is not complete yet
            print(text[len(shown) :], end="", flush=True)
            shown = text

    print(prompt, end="", flush=True)
    generate(restored.model, [start], options, on_token=show)
    print(flush=True)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    from lmx.config.door import guarded

    return guarded(lambda: run(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
