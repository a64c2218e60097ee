"""A module without some of its residual blocks: what stands in their place passes the stream on."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from compressor.execution.copies import copy_module


class DroppedBlock(nn.Identity):
    """Stands where a residual block was, so that the names of other modules do not change."""

    def forward(self, input: Tensor, *others: object, **options: object) -> Tensor:
        """Return the first argument, whatever else the block took."""
        return input


def drop_blocks_(module: nn.Module, names: Iterable[str]) -> None:
    """Replace blocks of a module in place.

    Args:
        module: The module.
        names: Names of its blocks.

    Raises:
        AttributeError: The module has no block of that name.
    """
    for name in names:
        module.get_submodule(name)
        stand_in = DroppedBlock()
        stand_in.training = module.training
        module.set_submodule(name, stand_in)


def without_blocks(module: nn.Module, names: Iterable[str]) -> nn.Module:
    """Copy a module without some of its blocks.

    Args:
        module: The module. It is not changed.
        names: Names of its blocks.

    Returns:
        The copy.
    """
    copied = copy_module(module)
    drop_blocks_(copied, names)
    return copied


def is_inside(name: str, blocks: Iterable[str]) -> bool:
    """Test whether a module or tensor belongs to one of the blocks.

    Args:
        name: Name of the module or tensor.
        blocks: Names of the blocks.

    Returns:
        True for the blocks themselves, too.
    """
    return any(name == block or name.startswith(f"{block}.") for block in blocks)
