"""Which arithmetic trains, and which pays on this processor: a fixed rule, so that a run can be repeated.

Images per second of training a slim ResNet-56 (half of every block's first convolution removed) at batch 128 with 2
threads of an EPYC with AVX512_BF16, freed memory kept (memory.py), 8 iterations after 2 of warm-up:

      float32                bfloat16 autocast
      contiguous   last      contiguous   last
             332    389             480    447

Without such instructions bfloat16 is emulated and slower than float32. Hence bfloat16 with contiguous tensors where
the processor multiplies it, else float32 with channels last; on a GPU always channels last, which is what its matrix
units read. float16 computes on every processor, few of which gain by it: it is for GPUs that have no bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compressor.core import Precision

LEAST_SCALE = 2.0**-10
"""Of a loss in float16. Gradients that have no room even then are a thousand times as large as its largest number."""

_NAMED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What convolutions and matrix products compute in, by autocast; weights, gradients and losses stay float32."""

    device: torch.device
    dtype: torch.dtype

    @property
    def layout(self) -> torch.memory_format:
        """The order of images in memory that goes with it."""
        reduced = self.dtype != torch.float32
        return torch.contiguous_format if self.device.type == "cpu" and reduced else torch.channels_last

    def autocast(self) -> torch.autocast:
        """What the forward pass runs in."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps gradients within the range of float16; with the others' range it does nothing.

        The loss is scaled by 2^16 at first, by half of that whenever a gradient is not finite, in a step that is then
        skipped, and by twice that after 2000 steps without. Micikevicius et al., Mixed Precision Training, ICLR 2018,
        arXiv:1710.03740.
        """
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


def arithmetic(precision: Precision, device: torch.device) -> Arithmetic:
    """The one that a recipe names, or the one that pays on `device`."""
    if precision == "auto":
        return Arithmetic(device, torch.bfloat16 if _multiplies_bf16(device) else torch.float32)
    return Arithmetic(device, _NAMED[precision])


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private names, because torch.cpu.get_capabilities is younger than the oldest torch we accept.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
