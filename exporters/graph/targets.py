"""The targets of an export by name: whose operators its graphs use, and what else the provider there takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from skipstone.exporters.graph.bucket_kernels import FixedKernels, HalfFixedKernels
from skipstone.exporters.graph.cuda_kernels import CudaKernels
from skipstone.exporters.graph.kernels import Kernels, OrtKernels
from skipstone.exporters.graph.plain_kernels import PlainKernels

__all__ = ["TARGETS"]

TARGETS: Final[Mapping[str, type[Kernels]]] = {
    "ort": OrtKernels,
    "plain": PlainKernels,
    "cuda": CudaKernels,
    "android-cpu": OrtKernels,  # the CPU provider of onnxruntime's mobile packages has all of them
    "xnnpack": FixedKernels,
    "nnapi": FixedKernels,
    "coreml": HalfFixedKernels,
    "qnn": HalfFixedKernels,
}
