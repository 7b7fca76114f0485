"""Peak arithmetic of known GPUs: the denominators of MFU."""

from __future__ import annotations

import re

# Dense TFLOP/s (without sparsity): bf16 and fp16 on tensor cores with fp32 accumulation, fp32 not as TF32.
# Sources: NVIDIA's datasheets of A100, H100, H200, L4, L40S, T4, V100, A10 and A40; for the RTX cards the
# appendices of the GA102 and Ada white papers.
_PEAKS: tuple[tuple[str, dict[str, float]], ...] = (
    ("H200 NVL", {"bf16": 835.5, "fp16": 835.5, "fp32": 60.0}),
    ("H200", {"bf16": 989.5, "fp16": 989.5, "fp32": 67.0}),
    ("H100 PCIe", {"bf16": 756.5, "fp16": 756.5, "fp32": 51.0}),
    ("H100 NVL", {"bf16": 835.5, "fp16": 835.5, "fp32": 60.0}),
    ("H100", {"bf16": 989.5, "fp16": 989.5, "fp32": 67.0}),
    ("A100", {"bf16": 312.0, "fp16": 312.0, "fp32": 19.5}),
    ("L40S", {"bf16": 362.0, "fp16": 362.0, "fp32": 91.6}),
    ("L4", {"bf16": 121.0, "fp16": 121.0, "fp32": 30.3}),
    ("A40", {"bf16": 149.7, "fp16": 149.7, "fp32": 37.4}),
    ("A10", {"bf16": 125.0, "fp16": 125.0, "fp32": 31.2}),
    ("RTX A6000", {"bf16": 154.8, "fp16": 154.8, "fp32": 38.7}),
    ("RTX 3090", {"bf16": 71.0, "fp16": 71.0, "fp32": 35.6}),
    ("RTX 4090", {"bf16": 165.2, "fp16": 165.2, "fp32": 82.6}),
    ("T4", {"fp16": 65.0, "fp32": 8.1}),
    ("V100-SXM2", {"fp16": 125.0, "fp32": 15.7}),
    ("V100-PCIE", {"fp16": 112.0, "fp32": 14.0}),
)
_VARIANT = re.compile(r"\s*(Ti|SUPER|D|Laptop|Max-Q|MIG)\b", re.IGNORECASE)


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Return the peak dense FLOP/s of a GPU in bf16, fp16 or fp32; None where it is not known.

    `device_name` is what CUDA reports, such as ``NVIDIA A100-SXM4-80GB``. Another product whose name begins
    alike (A10G, RTX 3090 Ti, a MIG slice) is not known.
    """
    for product, peaks in _PEAKS:
        found = re.search(rf"\b{re.escape(product)}(?![A-Za-z0-9])", device_name)
        if found is None:
            continue
        if _VARIANT.match(device_name[found.end() :]) or " MIG " in device_name:
            return None
        peak = peaks.get(dtype)
        return None if peak is None else peak * 1e12
    return None
