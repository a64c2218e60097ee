"""Layers of einops whose lengths of axes, such as a number of heads, are attributes that can change.

`einops.layers.torch.Rearrange` keeps them in a table that its pattern was compiled with.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

REARRANGE = "einops.layers.torch.Rearrange"


class FreeRearrange(nn.Module):
    """A `Rearrange` whose lengths are attributes `length_AXIS`."""

    def __init__(self, pattern: str, lengths: Mapping[str, int]) -> None:
        super().__init__()
        self.pattern, self.axes = pattern, tuple(lengths)
        for axis, length in lengths.items():
            setattr(self, f"length_{axis}", length)

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange, as einops does."""
        from einops import rearrange  # there is such a layer, so it is installed

        lengths = {axis: getattr(self, f"length_{axis}") for axis in self.axes}
        result: Tensor = rearrange(x, self.pattern, **lengths)
        return result


def free_rearrange(module: nn.Module) -> None:
    """Replace every `Rearrange` inside a module, which is changed and computes the same."""
    for name, part in list(module.named_modules(remove_duplicate=False)):
        if name and f"{type(part).__module__}.{type(part).__qualname__}" == REARRANGE:
            module.set_submodule(name, FreeRearrange(part.pattern, part.axes_lengths))
