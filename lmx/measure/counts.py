"""Parameters and FLOPs of a decoder, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from lmx.config import Experiment, ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by part; a tied head is part of the embedding. Biases belong to the part that adds them."""

    embedding: int  # of tokens, and of learned positions
    attention: int
    feed_forward: int
    norm: int
    head: int  # an untied matrix, a bias
    hidden_matrices: int  # weights inside the blocks with two dimensions: what Muon takes; part of the above

    @property
    def total(self) -> int:
        """All parameters, each once."""
        return self.embedding + self.attention + self.feed_forward + self.norm + self.head

    @property
    def without_embedding(self) -> int:
        """All but what is looked up at the input: an untied head is counted, a tied one is not."""
        return self.total - self.embedding


@dataclass(frozen=True)
class FlopCounts:
    """Floating-point operations a token, a multiply-add being two."""

    forward: float
    training: float  # forward and backward


def parameter_counts(model: ModelConfig) -> ParameterCounts:
    """Count the parameters of a decoder whose vocab_size and context_length are filled in."""
    vocab, width = _vocab_size(model), model.hidden_size
    attention, feed_forward = _attention_matrices(model), _feed_forward_matrices(model)
    biases = _attention_biases(model) if model.attention_bias else 0
    return ParameterCounts(
        embedding=(vocab + _learned_positions(model)) * width,
        attention=model.num_layers * (attention + biases),
        feed_forward=model.num_layers
        * (feed_forward + (_feed_forward_biases(model) if model.mlp_bias else 0)),
        norm=_norms(model),
        head=(0 if model.tie_embeddings else vocab * width) + (vocab if model.head_bias else 0),
        hidden_matrices=model.num_layers * (attention + feed_forward),
    )


def flops_per_token(model: ModelConfig, sequence_length: int) -> FlopCounts:
    """Count the matrix products of one token in a sequence of `sequence_length` tokens.

    Two FLOPs a weight for every matrix of the blocks and of the head, tied or not, and 4·L·H·D·T for the
    attention scores and their mixing. Norms, activations, softmax and the embedding's look-up are not
    counted. The convention is that of PaLM's MFU (arXiv:2204.02311, appendix B): attention counts all T
    positions, as a kernel without knowledge of causality would compute them, and the backward pass counts
    twice the forward, recomputation by activation checkpointing not included. 6·N per token is the same
    without attention, with N the matrices and the head.
    """
    matrices = model.num_layers * (_attention_matrices(model) + _feed_forward_matrices(model))
    head = _vocab_size(model) * model.hidden_size
    scores = model.num_layers * model.num_heads * model.resolved_head_dim * sequence_length
    forward = 2.0 * (matrices + head) + 4.0 * scores
    return FlopCounts(forward, 3 * forward)


def training_flops(experiment: Experiment) -> float:
    """FLOPs of training on a token: forward and backward for each gradient that an update takes."""
    per_gradient = flops_per_token(experiment.model, experiment.data.sequence_length).training
    return per_gradient * experiment.passes


def _vocab_size(model: ModelConfig) -> int:
    assert model.vocab_size is not None, "model.vocab_size is filled in from the tokenizer"
    return model.vocab_size


def _learned_positions(model: ModelConfig) -> int:
    if model.position != "learned":
        return 0
    assert model.context_length is not None, "model.context_length is filled in from the data"
    return model.context_length


def _attention_matrices(model: ModelConfig) -> int:
    """Query and output, key and value, of one layer."""
    heads = 2 * model.num_heads + 2 * model.resolved_kv_heads
    return model.hidden_size * model.resolved_head_dim * heads


def _attention_biases(model: ModelConfig) -> int:
    heads = model.num_heads + 2 * model.resolved_kv_heads
    return model.resolved_head_dim * heads + model.hidden_size


def _feed_forward_matrices(model: ModelConfig) -> int:
    """Up and down of one layer, and a gate."""
    return model.hidden_size * model.intermediate_size * (3 if model.gated else 2)


def _feed_forward_biases(model: ModelConfig) -> int:
    return model.intermediate_size * (2 if model.gated else 1) + model.hidden_size


def _norms(model: ModelConfig) -> int:
    """Two a layer and the final one, and those of q and k."""
    norms = 0 if model.norm == "none" else 2 * model.num_layers + model.final_norm
    heads = 2 * model.num_layers * model.resolved_head_dim if model.qk_norm else 0
    return norms * model.hidden_size * (2 if model.norm_bias else 1) + heads
