"""The weights before training, by named scheme."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lmx.config import ModelConfig
from lmx.model.parameters import is_hidden_matrix, mup_width_ratio

RESIDUAL_PROJECTIONS = ("attention.output.weight", "feed_forward.down.weight")


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig) -> None:
    """Set every parameter of a decoder by ``config.init``; norms are 1 and biases 0.

    - ``normal``: N(0, init_std²) everywhere; ``scaled``: the same with the projections back into the
      residual stream divided by √(2·layers) (GPT-2). Under muP hidden matrices are also multiplied by
      √(base width / width).
    - ``xavier_truncated``: matrices N(0, 2/(in + out)) truncated at 3σ, embeddings N(0, 1) truncated at 3.
      The variance of a hidden matrix already falls as muP wants it.
    - ``torch_default``: what nn.Linear and nn.Embedding do by themselves, biases included.
    """
    if config.init == "torch_default":
        return
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
        elif config.init == "xavier_truncated":
            _xavier_truncated(parameter, is_embedding="embedding" in name)
        else:
            nn.init.normal_(parameter, std=_std(config, name))


def _std(config: ModelConfig, name: str) -> float:
    std = config.init_std
    if is_hidden_matrix(name):
        std *= math.sqrt(mup_width_ratio(config))
    if config.init == "scaled" and name.endswith(RESIDUAL_PROJECTIONS):
        std /= math.sqrt(2 * config.num_layers)
    return std


def _xavier_truncated(parameter: Tensor, is_embedding: bool) -> None:
    std = 1.0 if is_embedding else math.sqrt(2.0 / sum(parameter.shape))
    nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std)
