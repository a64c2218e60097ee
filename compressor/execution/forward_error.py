"""Whether a module runs on inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.execution.copies import copy_module


def forward_error(module: nn.Module, *inputs: Tensor) -> Exception | None:
    """Run a copy of a module, because a forward may change the module's state.

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
        with torch.no_grad():
            copied(*inputs)
    except Exception as error:  # a forward may raise anything
        return error
    return None
