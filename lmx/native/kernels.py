"""The C++ sources of this folder as one library, which is compiled once for a processor and kept."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_FOLDER = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_SECONDS = 120.0  # a compiler that takes longer is not waited for
_PRODUCTS = (  # at::native::cpublas::brgemm of bfloat16 and of float, brgemm_release
    "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb",
    "_ZN2at6native7cpublas6brgemmEllllllbPKfS3_Pfb",
    "_ZN2at6native7cpublas14brgemm_releaseEb",
)

_left_out = False


def available() -> bool:
    """Whether the library can be had; the first to ask waits a few seconds until it is compiled."""
    return not _left_out and _library() is not None


@contextmanager
def left_out() -> Iterator[None]:
    """Let plain torch do everything meanwhile."""
    global _left_out
    before, _left_out = _left_out, True
    try:
        yield
    finally:
        _left_out = before


def call(function: str, *arguments: Tensor | float | None) -> None:
    """Call ``lmx_<function>``, which writes its results where its tensors point.

    A tensor is passed as the address of its first number, None as no address, a whole number or bool as
    int64_t, any other number as float; last comes the number of threads. Python's lock is free meanwhile.
    """
    library = _library()
    assert library is not None
    library["lmx_" + function](*map(_passed, arguments), ctypes.c_int64(torch.get_num_threads()))


def _passed(argument: Tensor | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_float(argument)


def multiplies(dtype: torch.dtype) -> bool:
    """Whether the kernels can multiply matrices of `dtype`, which they do with functions of torch's."""
    return bool(torch.backends.mkldnn.enabled) and available() and dtype in _products()


@cache
def _library() -> ctypes.CDLL | None:
    """Return the compiled library, or None where it cannot be had."""
    try:
        return ctypes.CDLL(str(_compiled()))
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return None


@cache
def _products() -> tuple[torch.dtype, ...]:
    """Hand torch's products over; return the dtypes in which this processor has them."""
    library, torchs = _library(), ctypes.CDLL(torch._C.__file__)
    assert library is not None
    try:
        addresses = [ctypes.cast(torchs[name], ctypes.c_void_p) for name in _PRODUCTS]
    except AttributeError:  # another version of torch
        return ()
    found = library.lmx_products(*addresses)
    return tuple(dtype for bit, dtype in ((1, torch.bfloat16), (2, torch.float32)) if found & bit)


def _compiled() -> Path:
    """Return the library for this processor, compiled unless it is in the cache.

    Raises OSError or SubprocessError where it cannot be, RuntimeError where there is no home.
    """
    compiler = shlex.split(os.environ.get("CXX", "g++"))  # perhaps `ccache g++`
    if not compiler or shutil.which(compiler[0]) is None:
        raise OSError("there is no C++ compiler")
    texts = [path.read_text() for path in sorted(_FOLDER.iterdir()) if path.suffix in (".cpp", ".h")]
    key = hashlib.sha256("\n".join((*texts, *compiler, *_FLAGS, _processor())).encode())
    folder = Path(os.environ.get("LMX_CACHE", "~/.cache/lmx")).expanduser() / "native"
    library = folder / f"lmx-{key.hexdigest()[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            made = Path(name) / library.name
            command = [*compiler, *_FLAGS, "-o", str(made), *map(str, sorted(_FOLDER.glob("*.cpp")))]
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
