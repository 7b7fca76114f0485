"""Write text with a trained run: `python -m lmx.generate RUN --prompt "Once upon a time"`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """Return the command line of this door."""
    from lmx.config.door import Parser

    line = Parser(prog="python -m lmx.generate", description="Write text with a trained run.")
    line.add_argument(
        "run", metavar="RUN", help="a run folder, such as outputs/storyworld_tiny/2026-01-31_12-00-00_abc123"
    )
    line.add_argument("--prompt", action="append", help="where the text begins; may be given several times")
    line.add_argument("--checkpoint", metavar="FILE", help="a checkpoint file instead of the run's best")
    line.add_argument("--max-new-tokens", type=int, default=200, metavar="N")
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
    from lmx.model import GenerationOptions, generate
    from lmx.training.restore import restore

    restored = restore(arguments.run, arguments.checkpoint, lambda text: print(text, file=sys.stderr))
    tokenizer = restored.tokenizer
    eos = tokenizer.eos_id
    options = GenerationOptions(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
        stop_tokens=() if eos is None else (eos,),
    )
    for prompt in arguments.prompt or [""]:
        print(f"prompt {prompt!r}, seed {arguments.seed}", file=sys.stderr)
        ids = tokenizer.encode(prompt) or [eos if eos is not None else 0]
        written = _stream(restored.model, tokenizer, prompt, ids, options, generate)
        words = written.split()
        print(
            f"\ndistinct-1 {distinct_n(words, 1):.3f}, distinct-2 {distinct_n(words, 2):.3f}", file=sys.stderr
        )
    return 0


def _stream(model, tokenizer, prompt, ids, options, generate) -> str:  # type: ignore[no-untyped-def]
    """Print whole characters as soon as they are complete; return the text."""
    new: list[int] = []
    shown = ""
    print(prompt, end="", flush=True)

    def show(row: int, token: int) -> None:
        nonlocal shown
        new.append(token)
        text = tokenizer.decode(new)
        if not text.endswith("\ufffd"):  # a character of several tokens is not complete yet
            print(text[len(shown) :], end="", flush=True)
            shown = text

    generate(model, [ids], options, on_token=show)
    print(flush=True)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    from lmx.config.door import guarded

    return guarded(lambda: run(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
