"""From logits to the next token: greedy, or drawn from a filtered distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmx.config import ConfigError
from lmx.config.fields import field_problems, number


@dataclass(frozen=True)
class GenerationOptions:
    """How text is continued. Filters apply in this order: repetition, temperature, top-k, top-p, min-p.

    Raises ConfigError naming every value out of its bounds.
    """

    max_new_tokens: int = number(64, low=0)
    temperature: float = number(1.0, low=0)  # 0: greedy, the likeliest token each time
    top_k: int | None = number(None, low=1)  # only the k likeliest
    top_p: float | None = number(None, above=0, high=1)  # only the likeliest that together reach p
    min_p: float | None = number(
        None, low=0, high=1
    )  # only those at least p times as likely as the likeliest
    repetition_penalty: float = number(1.0, above=0)  # of tokens already in the row (Keskar et al., 2019)
    seed: int = number(0, low=0)
    stop_tokens: tuple[int, ...] = ()  # a row ends behind the first of them that it generates

    def __post_init__(self) -> None:
        problems = list(field_problems(self, "generation"))
        if problems:
            raise ConfigError("; ".join(problems))


def next_tokens(
    logits: Tensor, seen: Tensor | None, options: GenerationOptions, generator: torch.Generator
) -> Tensor:
    """Choose one token a row from logits ``(B, V)``; return ``(B,)``.

    `seen` ``(B, V)`` marks the tokens already in each row; None where nothing is penalised.
    """
    logits = logits.float()
    if seen is not None:
        penalised = torch.where(
            logits > 0, logits / options.repetition_penalty, logits * options.repetition_penalty
        )
        logits = torch.where(seen, penalised, logits)
    if options.temperature == 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits / options.temperature, options).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def filter_logits(logits: Tensor, options: GenerationOptions) -> Tensor:
    """Return logits ``(B, V)`` with −∞ for the tokens that top-k, top-p and min-p exclude."""
    hidden = float("-inf")
    if options.top_k is not None:
        least = logits.topk(min(options.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, hidden)
    if options.top_p is not None:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        before = (
            probabilities.cumsum(-1) - probabilities
        )  # mass of the likelier ones: the likeliest always stays
        excluded = before >= options.top_p
        logits = logits.masked_fill(excluded.scatter(-1, order, excluded), hidden)
    if options.min_p is not None:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(
            probabilities < options.min_p * probabilities.amax(-1, keepdim=True), hidden
        )
    return logits
