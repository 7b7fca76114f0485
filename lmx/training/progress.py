"""What a person sees while it trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any, NamedTuple

import lightning.pytorch as pl

from lmx.measure import digits
from lmx.training.callbacks.base import Listener
from lmx.training.module import LanguageModule

REFRESH_SECONDS = 0.3
LINE_SECONDS = 15.0
RATE_SECONDS = 60.0  # what rate and time left are taken over


class Mark(NamedTuple):
    """How far the training was at some moment."""

    step: int
    tokens: float
    seconds: float


class Progress(Listener):
    """Shows step, loss, tokens a second and time left; waits for the device a few times a second at most."""

    def __init__(self) -> None:
        """The bar goes to stderr, evaluations to stdout."""
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._shown = 0.0
        self._marks: deque[Mark] = deque()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Open the bar where the run stands."""
        self._marks.clear()
        self._shown = time.monotonic()
        if self._terminal and trainer.is_global_zero:
            from tqdm import tqdm

            layout = (
                "{percentage:3.0f}% {bar:24} {n}/{total}{postfix}"
                if pl_module.total_steps
                else "{n} {postfix}"
            )
            self._bar = tqdm(
                total=pl_module.total_steps,
                initial=pl_module.step,
                bar_format=layout,
                leave=False,
                mininterval=0,
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refresh when it is time."""
        if not trainer.is_global_zero:
            return
        if not self._marks:
            self._marks.append(_mark(pl_module))  # after the first step, which may have been compiled
        now = time.monotonic()
        if now - self._shown < (REFRESH_SECONDS if self._bar is not None else LINE_SECONDS):
            return
        self._shown = now
        text = self._state(pl_module)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.n = pl_module.step
            self._bar.refresh()
        else:
            total = f"/{pl_module.total_steps}" if pl_module.total_steps else ""
            print(f"step {pl_module.step}{total}  {text}", file=sys.stderr, flush=True)

    def on_evaluation(self, trainer: pl.Trainer, module: LanguageModule, values: dict[str, float]) -> None:
        """Print a line that stays."""
        if not trainer.is_global_zero:
            return
        line = (
            f"step {module.step:>7,}  val loss {digits(values['val/loss'], '.4f')}"
            f"  perplexity {digits(values['val/perplexity'], ',.2f')}"
            f"  bits/byte {digits(values['val/bits_per_byte'], '.4f')}"
        )
        if "val/floor_bits_per_byte" in values:
            line += f"  (floor {values['val/floor_bits_per_byte']:.4f})"
        if self._bar is not None:
            self._bar.clear()
        print(line, flush=True)
        self._shown = time.monotonic()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar, also after an error."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _state(self, module: LanguageModule) -> str:
        text = f"loss {digits(module.last_loss(), '.3f')}"
        now, since = _mark(module), self._marks[0]
        steps, seconds = now.step - since.step, now.seconds - since.seconds
        if steps == 0:
            return text
        text += f"  {_thousands((now.tokens - since.tokens) / seconds)} tokens/s"
        if module.total_steps:
            text += f"  {_clock((module.total_steps - now.step) * seconds / steps)} left"
        self._marks.append(now)
        while now.seconds - self._marks[1].seconds > RATE_SECONDS:
            self._marks.popleft()
        return text


def _mark(module: LanguageModule) -> Mark:
    return Mark(module.step, module.tokens, module.stopwatch.seconds)


def _thousands(value: float) -> str:
    return f"{value / 1000:.1f}k" if value < 1e6 else f"{value / 1e6:.2f}M"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
