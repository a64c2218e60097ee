"""Criteria: rows (N, K) of the weights that write N channels -> a score (N,); the lowest goes first.

Written with tensor methods only, so that reading a recipe does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def l1(rows_NK: Tensor) -> Tensor:
    """Mean absolute weight of each filter, `mean_k |w_nk|`.

    The mean instead of the sum leaves the order within a layer as it is and takes the fan-in out of comparisons
    between layers. Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710.
    """
    return rows_NK.abs().mean(dim=1)


def lots(rows_NK: Tensor) -> Tensor:
    """A number between 0 and 1 drawn for every filter, whatever its weights."""
    return rows_NK.new_empty(len(rows_NK)).uniform_()
