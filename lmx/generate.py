"""Write text with a trained run: `python -m lmx.generate RUN --prompt "Once upon a time"`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmx.data import Tokenizer
    from lmx.model import GenerationOptions

MOST = 200  # new tokens where the command line does not say


def parser() -> argparse.ArgumentParser:
    """Return the command line of this door."""
    from lmx.config.door import Parser

    line = Parser(prog="python -m lmx.generate", description="Write text with a trained run.")
    line.add_argument(
        "run", metavar="RUN", help="a run folder, such as outputs/storyworld_tiny/2026-01-31_12-00-00_abc123"
    )
    line.add_argument(
        "--prompt",
        action="append",
        help="where the text begins; given several times, all are continued at once",
    )
    line.add_argument("--checkpoint", metavar="FILE", help="a checkpoint file instead of the run's best")
    line.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="default: 200, or what the context holds"
    )
    line.add_argument(
        "--temperature", type=float, default=0.8, metavar="X", help="0: the likeliest token (default 0.8)"
    )
    line.add_argument("--top-k", type=int, metavar="N", help="draw from the N likeliest tokens")
    line.add_argument(
        "--top-p", type=float, metavar="X", help="draw from the likeliest that together reach X"
    )
    line.add_argument(
        "--min-p", type=float, metavar="X", help="draw from those at least X times as likely as the likeliest"
    )
    line.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="above 1: against tokens used before",
    )
    line.add_argument(
        "--stop", action="append", metavar="TEXT", help="end behind this token, as at the end of a document"
    )
    line.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default 0)")
    return line


def run(arguments: argparse.Namespace) -> int:
    """Print each continuation as it is written, and its shares of distinct n-grams."""
    from lmx.model import GenerationOptions, generate, lay_out_for_generation
    from lmx.training.restore import restore

    restored = restore(arguments.run, arguments.checkpoint, lambda text: print(text, file=sys.stderr))
    tokenizer, prompts = restored.tokenizer, arguments.prompt or [""]
    eos = tokenizer.eos_id
    # an empty prompt begins where a document does
    starts = [tokenizer.encode(prompt) or [eos or 0] for prompt in prompts]
    room = restored.model.context_length - max(map(len, starts))
    new_tokens = arguments.max_new_tokens
    options = GenerationOptions(
        max_new_tokens=max(1, min(MOST, room)) if new_tokens is None else new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
        stop_tokens=tuple(_stop_tokens(tokenizer, arguments.stop or [])),
    )
    texts = Texts(tokenizer, prompts, starts, options)
    generate(lay_out_for_generation(restored.model), starts, options, on_token=texts.add)
    texts.end()
    return 0


def _stop_tokens(tokenizer: Tokenizer, stops: Sequence[str]) -> list[int]:
    """Return the end of a document, and the tokens that are the text of a stop behind another token."""
    from lmx.config import ConfigError

    tokens = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    before = tokenizer.encode("a")
    for stop in stops:
        found = [i for i in range(tokenizer.vocab_size) if tokenizer.continuation(before, [i]) == stop]
        if not found or not stop:
            raise ConfigError(f"--stop: got {stop!r}, no token of this run; allowed: text that is one token")
        tokens += found
    return tokens


class Texts:
    """Prints continuations, one after the other: that of the first prompt as it is written, token by token.

    A continuation whose turn has not come is kept. Prompt, seed and distinct-n go to standard error.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        starts: Sequence[list[int]],
        options: GenerationOptions,
    ) -> None:
        self.tokenizer, self.prompts, self.starts, self.options = tokenizer, prompts, starts, options
        self.new: list[list[int]] = [[] for _ in prompts]
        self.ended = [False for _ in prompts]
        self.turn = 0
        self.shown: str | None = None  # of the continuation whose turn it is; None before it begins

    def add(self, row: int, token: int) -> None:
        """Take the next token of a prompt."""
        if token != self.tokenizer.eos_id:
            self.new[row].append(token)
        self.ended[row] = token in self.options.stop_tokens
        if row == self.turn:
            self._show()
        while self.turn < len(self.prompts) and self.ended[self.turn]:
            self._close()

    def end(self) -> None:
        """Print what is left."""
        while self.turn < len(self.prompts):
            self._close()

    def _show(self) -> str:
        """Print what is new of the continuation whose turn it is; return all that is shown of it."""
        if self.shown is None:
            print(
                f"prompt {self.prompts[self.turn]!r}, seed {self.options.seed}", file=sys.stderr, flush=True
            )
            print(self.prompts[self.turn], end="", flush=True)
            self.shown = ""
        text = self.tokenizer.continuation(self.starts[self.turn], self.new[self.turn])
        text = text.rstrip("\ufffd")  # a character of several tokens that is not complete yet
        print(text[len(self.shown) :], end="", flush=True)
        self.shown = text
        return self.shown

    def _close(self) -> None:
        from lmx.measure import distinct_n

        words = self._show().split()
        print(flush=True)
        shares = {n: distinct_n(words, n) for n in (1, 2, 3)}
        told = ", ".join(f"distinct-{n} {share:.3f}" for n, share in shares.items() if not math.isnan(share))
        print(told or "no words", file=sys.stderr, flush=True)
        self.turn, self.shown = self.turn + 1, None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    from lmx.config.door import guarded

    return guarded(lambda: run(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
