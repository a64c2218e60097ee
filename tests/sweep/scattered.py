"""A check of surgery that shares no code with the package: slim weights in the middle of zeros compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

Kept = Mapping[str, Mapping[int, Sequence[int]]]


def scattered(dense: nn.Module, slim: nn.Module, kept: Kept) -> nn.Module:
    """Put every slim tensor where it was in the dense module, and zeros elsewhere.

    Removed channels are zero then, and whoever read them multiplies them by zero.

    Args:
        dense: The dense module.
        slim: The slim one.
        kept: Tensor -> dimension -> kept indices.

    Returns:
        A copy of the dense module with these weights.

    Raises:
        AssertionError: A weight that was kept is not the dense module's.
    """
    before, after = dense.state_dict(), slim.state_dict()
    of_storage = {before[name].data_ptr(): dims for name, dims in kept.items()}  # a shared tensor is recorded once
    weights = {}
    for name, tensor in before.items():
        dims = kept.get(name, of_storage.get(tensor.data_ptr(), {}) if tensor.numel() else {})
        ranges = [torch.tensor(dims.get(dim, range(size))) for dim, size in enumerate(tensor.shape)]
        index = torch.meshgrid(*ranges, indexing="ij") if ranges else ()
        assert torch.equal(tensor[index], after[name]), f"{name} differs"
        weights[name] = torch.zeros_like(tensor)
        weights[name][index] = after[name]
    module = deepcopy(dense)
    module.load_state_dict(weights)
    return module


def difference(one: nn.Module, other: nn.Module, inputs: Sequence[Tensor]) -> float:
    """The largest difference of the outputs, relative to the largest output; in float64 where the modules allow it."""
    try:
        return _difference(deepcopy(one).double(), deepcopy(other).double(), inputs, torch.float64)
    except RuntimeError:  # float32 written in forward
        return _difference(one, other, inputs, torch.float32)


def _difference(one: nn.Module, other: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype) -> float:
    inputs = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs]
    with torch.no_grad():
        torch.manual_seed(0)
        a = _leaves(one.eval()(*inputs))
        torch.manual_seed(0)
        b = _leaves(other.eval()(*inputs))
    return max(float((p - q).abs().max() / p.abs().max().clamp(min=1e-30)) for p, q in zip(a, b, strict=True))


def _leaves(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output.double()]
    values = output.values() if isinstance(output, Mapping) else output
    return [leaf for value in values if value is not None for leaf in _leaves(value)]  # type: ignore[attr-defined]
