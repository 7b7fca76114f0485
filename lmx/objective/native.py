"""The walk over a tile in C++ (tile.cpp): twice as fast as what the compiler of torch makes of `TilePass`.

Compiled once for a processor, in half a second, and kept. Where there is no compiler, `TilePass` does it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmx.objective.tile import Seen, Tile, TilePass

_SOURCE = Path(__file__).with_name("tile.cpp")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_SECONDS = 60.0  # a compiler that takes longer is not waited for


def is_there() -> bool:
    """Whether it can be had; the first to ask waits until it is compiled."""
    return _function() is not None


def takes(tile: Tile) -> bool:
    """Whether a tile is of the kind that C++ walks over, and it is there."""
    product = tile.product
    return product.device.type == "cpu" and product.dtype == torch.bfloat16 and is_there()


def walk(tile_pass: TilePass, tile: Tile, seen: Seen) -> tuple[Seen, Tensor, Tensor]:
    """Do what `tile_pass` does with the same arguments; all but the reference is changed where it stands."""
    product, bias, column, rivals, keep = tile
    function = _function()
    assert function is not None
    rows, width = product.shape
    assert product.is_contiguous()
    assert keep is None or keep.stride(1) == 1
    reference = seen.reference.clone()
    total, moment = torch.empty_like(reference), torch.empty_like(reference)
    function(
        product.data_ptr(),
        None if bias is None else bias.data_ptr(),
        column.data_ptr(),
        None if rivals is None else rivals.data_ptr(),
        reference.data_ptr(),
        seen.peak.data_ptr(),
        seen.target.data_ptr(),
        seen.above.data_ptr(),
        None if keep is None else keep.data_ptr(),
        0 if keep is None else keep.stride(0),
        total.data_ptr(),
        moment.data_ptr(),
        rows,
        width,
        tile_pass.headroom,
        tile_pass.softcap or 0.0,
        tile_pass.sloped,
        torch.get_num_threads(),
    )
    return seen._replace(reference=reference), total, moment


@cache
def _function() -> Any:
    """Return the compiled function, or None where it cannot be had."""
    try:
        function = ctypes.CDLL(str(_library())).lmx_tile  # leaves Python's lock free while it runs
    except (OSError, subprocess.SubprocessError):
        return None
    pointer, size, number, whole = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    function.argtypes = [*[pointer] * 9, size, pointer, pointer, size, size, number, number, whole, whole]
    function.restype = None
    return function


def _library() -> Path:
    """Return the library for this processor, compiled unless it is in the cache.

    Raises OSError or SubprocessError where it cannot be.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise OSError("there is no C++ compiler")
    key = hashlib.sha256("\n".join((_SOURCE.read_text(), compiler, *_FLAGS, _processor())).encode())
    folder = Path(os.environ.get("LMX_CACHE", "~/.cache/lmx")).expanduser() / "native"
    library = folder / f"tile-{key.hexdigest()[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            made = Path(name) / library.name
            command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            made.rename(library)  # whole, or not there: runs that start together do not meet half of it
    return library


def _processor() -> str:
    """Return what tells processors apart for which different instructions are chosen."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
