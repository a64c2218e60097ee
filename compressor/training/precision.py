"""Which arithmetic pays on this processor: a fixed rule, so that a run can be repeated.

Milliseconds an iteration of training, batch 128, half of every block's first convolution removed, 2 threads of an
EPYC with AVX512_BF16 (5 interleaved rounds, median):

              float32             bfloat16 autocast
              contiguous  last    contiguous  last
  ResNet-20          155   121            79    84
  ResNet-56          479   392           223   246

Without such instructions bfloat16 is emulated and slower than float32. Hence bfloat16 with contiguous tensors where
the processor multiplies it, else float32 with channels last.
"""

from __future__ import annotations

from typing import Literal

import torch


def uses_bf16(precision: Literal["auto", "fp32", "bf16"]) -> bool:
    """True when autocast to bfloat16 is to be used."""
    if precision == "auto":
        # Private names, because torch.cpu.get_capabilities is younger than the oldest torch we accept.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return precision == "bf16"
