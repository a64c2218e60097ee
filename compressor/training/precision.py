"""Which arithmetic pays on this processor: a fixed rule, so that a run can be repeated.

Images per second of training a slim ResNet-56 (half of every block's first convolution removed) at batch 128 with 2
threads of an EPYC with AVX512_BF16, freed memory kept (memory.py), 8 iterations after 2 of warm-up:

      float32                bfloat16 autocast
      contiguous   last      contiguous   last
             332    389             480    447

Without such instructions bfloat16 is emulated and slower than float32. Hence bfloat16 with contiguous tensors where
the processor multiplies it, else float32 with channels last.
"""

from __future__ import annotations

import torch

from compressor.core import Precision


def uses_bf16(precision: Precision) -> bool:
    """True when autocast to bfloat16 is to be used."""
    if precision == "auto":
        # Private names, because torch.cpu.get_capabilities is younger than the oldest torch we accept.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return precision == "bf16"


def layout(bf16: bool) -> torch.memory_format:
    """The order of images in memory that goes with the arithmetic."""
    return torch.contiguous_format if bf16 else torch.channels_last
