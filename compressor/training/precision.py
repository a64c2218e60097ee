"""The precision of training: chosen by a fixed rule, so that a run can be repeated.

Milliseconds of one iteration at batch size 128 (32 from MobileNetV2 on), with 1 and with 2 threads of an EPYC with
AVX512_BF16, with freed memory kept (training_memory.py), the minimum of 6:

                                        float32                   bfloat16 autocast
                                 contiguous      last          contiguous      last
    ResNet-20, half of conv1       353  274    271  201          192  149    183  160
    ResNet-56, half of conv1      1068  693    794  465          559  400    499  389
    ResNet-18, quarter, odd widths 317  227    230  205          216  161    164  154
    MobileNetV2, 64 x 64           227  187    145  125          306  216    267  190
    ViT-Ti/16, 64 x 64             235  181    237  177          203  165    218  168

Hence the layout is channels last everywhere, as the matrix units of GPUs prefer it too. The precision is bfloat16 if
the processor has instructions for it and the network no depthwise convolutions, whose bfloat16 gradients take more than
half of MobileNetV2's time. Attention remains in float32 even then (float32_attention.py). Without instructions bfloat16
is emulated and slower than float32. float16 works on every processor, but few gain by it; it is for GPUs without
bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compressor.layers import CONVOLUTIONS
from compressor.tensors import tree_map
from compressor.training.float32_attention import attention_in_float32
from compressor.training.train_settings import Precision

LAYOUT = torch.channels_last
"""The memory layout of images and weights."""


def in_layout(inputs: Any) -> Any:
    """Convert images (B, C, H, W) of a batch to LAYOUT; make other tensors contiguous."""
    return tree_map(lambda leaf: leaf.contiguous(memory_format=LAYOUT) if leaf.ndim == 4 else leaf.contiguous(), inputs)


LEAST_SCALE = 2.0**-10
"""Smallest scale of a loss in float16. Gradients that overflow even then are over 1000 times float16's maximum."""

_NAMED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class PrecisionPolicy:
    """Autocast of convolutions and matrix products to `dtype`. Weights, gradients and losses remain float32."""

    device: torch.device
    dtype: torch.dtype

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The context that the forward pass runs in."""
        is_reduced = self.dtype != torch.float32
        attention = attention_in_float32() if is_reduced and self.device.type == "cpu" else nullcontext()
        with torch.autocast(self.device.type, self.dtype, enabled=is_reduced), attention:
            yield

    def scaler(self) -> torch.amp.GradScaler:
        """Make a scaler that keeps gradients within the range of float16; for other types it does nothing.

        The loss is scaled by 2^16 at first. A step with a gradient that is not finite is skipped and halves the scale;
        2000 finite steps in a row double it. Micikevicius et al., Mixed Precision Training, ICLR 2018,
        arXiv:1710.03740.
        """
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


def precision_policy(precision: Precision, module: nn.Module, device: torch.device) -> PrecisionPolicy:
    """Choose the precision of a training.

    Args:
        precision: The recipe's choice.
        module: The network.
        device: The device that trains it.

    Returns:
        The named precision; for `auto` the one that is faster.
    """
    if precision == "auto":
        is_faster = _multiplies_bf16(device) and not (device.type == "cpu" and _has_depthwise(module))
        return PrecisionPolicy(device, torch.bfloat16 if is_faster else torch.float32)
    return PrecisionPolicy(device, _NAMED[precision])


def _has_depthwise(module: nn.Module) -> bool:
    convolutions = (layer for layer in module.modules() if isinstance(layer, CONVOLUTIONS))
    return any(layer.groups == layer.in_channels > 1 for layer in convolutions)


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # These names are private, because torch.cpu.get_capabilities is newer than the oldest supported torch.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
