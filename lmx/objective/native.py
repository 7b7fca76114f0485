"""The walk over a tile in C++ (native/tile.cpp): twice as fast as what torch compiles from `TilePass`."""

from __future__ import annotations

import torch
from torch import Tensor

from lmx import native
from lmx.objective.tile import Seen, Tile, TilePass


def takes(tile: Tile) -> bool:
    """Whether a tile is of the kind that C++ walks over, and it is there."""
    product = tile.product
    kind = product.device.type == "cpu" and product.dtype in (torch.bfloat16, torch.float32)
    return kind and native.available()


def walk(tile_pass: TilePass, tile: Tile, seen: Seen) -> tuple[Seen, Tensor, Tensor]:
    """Do what `tile_pass` does with the same arguments; all but the reference is changed where it stands."""
    product, bias, column, rivals, keep = tile
    assert product.is_contiguous()
    assert keep is None or (keep.stride(1) == 1 and keep.dtype == product.dtype)
    reference = seen.reference.clone()
    total, moment = torch.empty_like(reference), torch.empty_like(reference)
    native.call(
        "tile",
        product,
        product.dtype == torch.bfloat16,
        bias,
        column,
        rivals,
        reference,
        seen.peak,
        seen.target,
        seen.above,
        keep,
        0 if keep is None else keep.stride(0),
        total,
        moment,
        *product.shape,
        float(tile_pass.headroom),
        float(tile_pass.softcap or 0),
        tile_pass.sloped,
    )
    return seen._replace(reference=reference), total, moment
