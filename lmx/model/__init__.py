"""The from-scratch decoder in plain `torch.nn`, one concept a file; weights in and out of transformers."""

from lmx.model.cache import KeyValueCache
from lmx.model.decoder import Decoder
from lmx.model.generate import GenerationOptions, generate, lay_out_for_generation
from lmx.model.parameters import parameter_group_of

__all__ = [
    "Decoder",
    "GenerationOptions",
    "KeyValueCache",
    "generate",
    "lay_out_for_generation",
    "parameter_group_of",
]
