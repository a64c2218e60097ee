"""How much of each layer's weight a mask keeps, with and without another order of channels, and of what bound."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from compressor.core import Sparsity
from compressor.sparsity.layers import Candidate, candidates, weights
from compressor.sparsity.pattern import bound_share, kept_share, magnitude_mask


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the sum of |w|: what masks keep in the order of channels there was at first and in the one there is
    now, and the most that any pattern with as many zeros could keep."""

    first: float
    now: float
    bound: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """`layers`: those that can be masked have shares, weighted by their sum of |w| in `total`."""

    sparsity: Sparsity
    layers: tuple[tuple[Candidate, Shares | None], ...]
    total: Shares


def outcome(module: nn.Module, sparsity: Sparsity, earlier: Outcome | None = None) -> Outcome:
    """What the mask of `sparsity` keeps of `module`, whose weights are still dense.

    `earlier`: the outcome before channels were put into another order.
    """
    found = candidates(module, sparsity)
    before = {layer.tensor: shares.first for layer, shares in earlier.layers if shares} if earlier else {}
    shares: dict[str, Shares] = {}
    sizes: dict[str, float] = {}
    for name, weight in weights(module, found).items():
        now = kept_share(weight, magnitude_mask(weight, sparsity.pattern))
        shares[name] = Shares(before.get(name, now), now, bound_share(weight, sparsity.pattern))
        sizes[name] = float(weight.abs().sum())
    whole = sum(sizes.values()) or 1.0
    first, now, bound = (
        sum(getattr(shares[name], key) * size for name, size in sizes.items()) / whole
        for key in ("first", "now", "bound")
    )
    return Outcome(sparsity, tuple((each, shares.get(each.tensor)) for each in found), Shares(first, now, bound))
