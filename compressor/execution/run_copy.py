"""Runs of a module for its outputs: no gradients, equal random numbers, and a copy that its forward may change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compressor.execution.copies import copy_module
from compressor.execution.randomness import SEED, equal_randomness


def run_seeded(module: nn.Module, *inputs: Tensor, seed: int = SEED) -> Any:
    """Run a module itself without gradients, from equal random numbers.

    Args:
        module: The module. Its forward may change it.
        inputs: Its inputs.
        seed: Passes of one seed draw the same.

    Returns:
        Its output.
    """
    with torch.no_grad(), equal_randomness(seed):
        return module(*inputs)


def run_copy(module: nn.Module, *inputs: Tensor) -> Any:
    """Run a copy of a module, because a forward may change the module's state.

    Args:
        module: The module. It is not changed.
        inputs: Its inputs.

    Returns:
        Its output.

    Raises:
        ModelError: The module cannot be copied.
    """
    return run_seeded(copy_module(module), *inputs)


def forward_error(module: nn.Module, *inputs: Tensor) -> Exception | None:
    """Test whether a module runs on inputs.

    Args:
        module: The module. It is not changed.
        inputs: Its inputs.

    Returns:
        What the forward raised; None if it ran.

    Raises:
        ModelError: The module cannot be copied.
    """
    copied = copy_module(module)
    try:
        run_seeded(copied, *inputs)
    except Exception as error:  # a forward may raise anything
        return error
    return None
