"""Kernels in C++ for a CPU, compiled when they are first needed.

Each has an equal in plain torch, which takes its place where no compiler is found, on a GPU, and in other
dtypes than float32 and bfloat16; `available` tells which of the two it is.
"""

from lmx.native.kernels import available, call, left_out, multiplies

__all__ = ["available", "call", "left_out", "multiplies"]
