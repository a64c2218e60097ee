"""Tensors that a module computes in eval mode and keeps, such as the attention biases of LeViT by position.

They have the widths that the weights had then. A module that keeps such tensors has to forget them when training begins
and the weights change, so that its own `train` is what empties them.
"""

from __future__ import annotations

from torch import Tensor, nn

OWN_ATTRIBUTES = frozenset(vars(nn.Module()))  # parameters, buffers, hooks


def forget_computed_tensors_(module: nn.Module) -> None:
    """Let the parts of a module that keep tensors compute them anew; modes stay as they are.

    Args:
        module: The module, whose weights have changed.
    """
    for part in module.modules():
        if any(_keeps_tensors(value) for name, value in vars(part).items() if name not in OWN_ATTRIBUTES):
            modes = [(inner, inner.training) for inner in part.modules()]
            part.train()
            part.eval()
            for inner, training in modes:
                inner.training = training


def _keeps_tensors(value: object) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(one, Tensor) for one in values)
