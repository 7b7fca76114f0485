"""What a person sees while it trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl

from lmx.measure import digits
from lmx.training.callbacks.base import Listener
from lmx.training.module import LanguageModule

REFRESH_SECONDS = 0.3
LINE_SECONDS = 15.0


class Progress(Listener):
    """Shows step, loss, tokens a second and time left; waits for the device a few times a second at most."""

    def __init__(self) -> None:
        """The bar goes to stderr, evaluations to stdout."""
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._shown = 0.0
        self._first_step = 0
        self._first_seconds = 0.0
        self._first_tokens = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Open the bar where the run stands."""
        self._first_step, self._first_seconds = pl_module.step, pl_module.stopwatch.seconds
        self._first_tokens = pl_module.tokens
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
        steps = module.step - self._first_step
        seconds = module.stopwatch.seconds - self._first_seconds
        rate = (module.tokens - self._first_tokens) / max(seconds, 1e-9)
        text = f"loss {digits(module.last_loss(), '.3f')}  {_thousands(rate)} tokens/s"
        if module.total_steps:
            text += f"  {_clock((module.total_steps - module.step) * seconds / max(steps, 1))} left"
        return text


def _thousands(value: float) -> str:
    return f"{value / 1000:.1f}k" if value < 1e6 else f"{value / 1e6:.2f}M"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
