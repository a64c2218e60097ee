"""Which arithmetic trains, and which pays on this processor: a fixed rule, so that a run can be repeated.

Milliseconds of one iteration at batch 128 (32 from MobileNetV2 on), with 1 and with 2 threads of an EPYC with
AVX512_BF16, freed memory kept (memory.py), the least of 6:

                                        float32                   bfloat16 autocast
                                 contiguous      last          contiguous      last
    ResNet-20, half of conv1       353  274    271  201          192  149    183  160
    ResNet-56, half of conv1      1068  693    794  465          559  400    499  389
    ResNet-18, quarter, odd widths 317  227    230  205          216  161    164  154
    MobileNetV2, 64 x 64           227  187    145  125          306  216    267  190
    ViT-Ti/16, 64 x 64             235  181    237  177          203  165    218  168

Hence channels last everywhere, which is what a GPU's matrix units read as well; and bfloat16 where the processor
multiplies it, but for depthwise convolutions: their gradients in bfloat16 take more than half of MobileNetV2's time.
Without such instructions bfloat16 is emulated and slower than float32. float16 computes on every processor, few of
which gain by it: it is for GPUs that have no bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compressor.tensors import tree_map
from compressor.training.settings import Precision

LAYOUT = torch.channels_last
"""The order of images in memory, and of weights that they meet."""


def in_layout(inputs: Any) -> Any:
    """The batch with images (B, C, H, W) in LAYOUT; other tensors have no such layout and are made contiguous."""
    return tree_map(lambda leaf: leaf.contiguous(memory_format=LAYOUT) if leaf.ndim == 4 else leaf.contiguous(), inputs)


LEAST_SCALE = 2.0**-10
"""Of a loss in float16. Gradients that have no room even then are a thousand times as large as its largest number."""

_NAMED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class PrecisionPolicy:
    """What convolutions and matrix products compute in, by autocast; weights, gradients and losses stay float32."""

    device: torch.device
    dtype: torch.dtype

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


def precision_policy(precision: Precision, module: nn.Module, device: torch.device) -> PrecisionPolicy:
    """The one that a recipe names, or the one that pays for `module` on `device`."""
    if precision == "auto":
        pays = _multiplies_bf16(device) and not (device.type == "cpu" and _has_depthwise(module))
        return PrecisionPolicy(device, torch.bfloat16 if pays else torch.float32)
    return PrecisionPolicy(device, _NAMED[precision])


def _has_depthwise(module: nn.Module) -> bool:
    convolutions = (each for each in module.modules() if isinstance(each, nn.Conv1d | nn.Conv2d | nn.Conv3d))
    return any(each.groups == each.in_channels > 1 for each in convolutions)


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private names, because torch.cpu.get_capabilities is younger than the oldest torch we accept.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
