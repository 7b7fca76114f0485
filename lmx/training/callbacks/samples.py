"""Text that the model writes at each evaluation, for the same prompts and seed every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl

from lmx.data import Tokenizer
from lmx.model import GenerationOptions, generate
from lmx.runs import MetricsLog, RunFolder
from lmx.training.callbacks.base import Listener
from lmx.training.module import LanguageModule


class Samples(Listener):
    """Writes a continuation of each prompt to `samples/samples.jsonl` and to TensorBoard's text page."""

    def __init__(
        self, prompts: Sequence[str], max_new_tokens: int = 60, temperature: float = 0.8, top_k: int | None = 50, seed: int = 0
    ) -> None:
        """`temperature` 0 is greedy; sampling draws from a generator of its own, so training is not disturbed."""
        self.prompts = list(prompts)
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_k = top_k
        self.seed = seed
        self.last: list[str] = []
        self._position: int | None = None

    def attach(self, folder: RunFolder, tokenizer: Tokenizer) -> None:
        """Say where samples go and which tokenizer reads prompts."""
        self._texts = MetricsLog(folder.sample_log)
        self._tokenizer = tokenizer

    def state_dict(self) -> dict[str, Any]:
        """Return how far the log was written."""
        return {"position": self._texts.position()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._position = state_dict["position"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: LanguageModule) -> None:
        """Cut the log back to the checkpoint of a resumed run."""
        if trainer.is_global_zero and self._position is not None:
            self._texts.rewind_to(self._position)

    def on_evaluation(self, trainer: pl.Trainer, module: LanguageModule, values: dict[str, float]) -> None:
        """Write a continuation of each prompt."""
        if not trainer.is_global_zero or not self.prompts:
            return
        texts = self._write(module)
        for prompt, text in zip(self.prompts, texts, strict=True):
            self._texts.append({"step": module.step, "prompt": prompt, "text": text, "seed": self.seed})
        self.last = [prompt + text for prompt, text in zip(self.prompts, texts, strict=True)]
        text = "\n\n".join(self.last)
        for logger in trainer.loggers:
            writer: Any = getattr(logger.experiment, "add_text", None)
            if writer is not None:
                writer("samples", text.replace("\n", "  \n"), module.step)

    def _write(self, module: LanguageModule) -> list[str]:
        context = module.experiment.context_length
        prompts = [self._tokenizer.encode(prompt) or [self._tokenizer.eos_id or 0] for prompt in self.prompts]
        room = context - max(len(prompt) for prompt in prompts)
        options = GenerationOptions(
            max_new_tokens=max(0, min(self.max_new_tokens, room)),
            temperature=self.temperature,
            top_k=self.top_k,
            seed=self.seed,
            stop_tokens=() if self._tokenizer.eos_id is None else (self._tokenizer.eos_id,),
        )
        written = generate(module.model, prompts, options)
        return [self._tokenizer.decode(ids[len(prompt) :]) for prompt, ids in zip(prompts, written, strict=True)]
