"""What single weights are worth by themselves: weight -> score of every entry, the lowest goes first.

Written with tensor methods only, so that reading a recipe does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """`|w|`. Han, Pool, Tran and Dally, Learning both Weights and Connections, NeurIPS 2015, arXiv:1506.02626."""
    return weight.abs()


def lots(weight: Tensor) -> Tensor:
    """A number between 0 and 1 drawn for every entry, whatever its value."""
    return weight.new_empty(weight.shape).double().uniform_()
