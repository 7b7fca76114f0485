"""One matrix at both ends of a model: the embedding, and the weight of the head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class TiedTable(torch.autograd.Function):
    """Rows of a table ``(V, C)`` and the table itself, for the head.

    Both gradients meet in this one node: those of the few rows are added to the head's, in place. As two
    uses of a parameter they would be added as two matrices, one of them zeros for the most part.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows ``(B, T, C)`` of tokens ``(B, T)``, and the table."""
        ctx.save_for_backward(tokens)
        ctx.shape = table.shape
        return F.embedding(tokens, table), table.view_as(table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rows: Tensor, d_table: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the table: in a kept graph a copy of what was given."""
        (tokens,) = ctx.saved_tensors
        if torch._C._autograd._get_current_graph_task_keep_graph() or not d_table.is_contiguous():
            d_table = d_table.clone(memory_format=torch.contiguous_format)
        return d_table.index_add_(0, tokens.flatten(), d_rows.flatten(0, 1)), None
