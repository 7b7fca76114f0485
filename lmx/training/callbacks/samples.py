"""Text that the model writes at each evaluation, for the same prompts and seed every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from lmx.config import ConfigError
from lmx.data import Tokenizer
from lmx.model import GenerationOptions, generate
from lmx.runs import MetricsLog, RunFolder
from lmx.training.callbacks.base import Listener
from lmx.training.module import LanguageModule


class Samples(Listener):
    """Writes a continuation of each prompt to `samples/samples.jsonl` and to TensorBoard's text page."""

    def __init__(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 60,
        temperature: float = 0.8,
        top_k: int | None = 50,
        seed: int = 0,
    ) -> None:
        """`temperature` 0 is greedy; sampling draws from a generator of its own and leaves training alone."""
        self.prompts = list(prompts)
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_k = top_k
        self.seed = seed
        self._position: int | None = None

    def read_prompts(self, tokenizer: Tokenizer, context: int) -> None:
        """Encode the prompts; raises ConfigError for one that leaves no room in the context."""
        self._tokenizer = tokenizer
        start = [tokenizer.eos_id or 0]  # an empty prompt begins where a document does
        self._ids = [tokenizer.encode(prompt) or start for prompt in self.prompts]
        for number, ids in enumerate(self._ids):
            if len(ids) >= context:
                raise ConfigError(
                    f"callbacks.{self.name}.prompts[{number}]: got {len(ids)} tokens, "
                    f"allowed: fewer than the model's context of {context}"
                )
        room = context - max(map(len, self._ids), default=0)
        self._options = GenerationOptions(
            max_new_tokens=min(self.max_new_tokens, room),
            temperature=self.temperature,
            top_k=self.top_k,
            seed=self.seed,
            stop_tokens=() if tokenizer.eos_id is None else (tokenizer.eos_id,),
        )

    def write_to(self, folder: RunFolder) -> None:
        """Say where samples go."""
        self._texts = MetricsLog(folder.sample_log)

    def state_dict(self) -> dict[str, Any]:
        """Return how far the log was written."""
        return {"position": self._texts.position()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._position = state_dict["position"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
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
        written = (prompt + text for prompt, text in zip(self.prompts, texts, strict=True))
        page = "\n\n".join(written).replace("\n", "  \n")  # Markdown's line break
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(self.name, page, module.step)

    def _write(self, module: LanguageModule) -> list[str]:
        written = generate(module.model, self._ids, self._options)
        return [
            self._tokenizer.continuation(prompt, ids[len(prompt) :])
            for prompt, ids in zip(self._ids, written, strict=True)
        ]
