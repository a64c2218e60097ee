"""The share of each layer's weights that an N:M mask retains, before and after channels are permuted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from compressor.sparsity.masking import Candidate, candidates, maskable_weights
from compressor.sparsity.nm_masks import magnitude_mask, retained_share, upper_bound_share
from compressor.sparsity.runtimes import NMSparsity


@dataclass(frozen=True, slots=True)
class RetainedShares:
    """Shares of the sum of |w| that a mask retains."""

    before: float  # in the original order of channels
    after: float  # in the present order
    upper_bound: float  # of any mask with as many zeros


@dataclass(frozen=True, slots=True)
class RetainedMagnitude:
    """What N:M masks retain of a network."""

    sparsity: NMSparsity
    layers: tuple[tuple[Candidate, RetainedShares | None], ...]  # None = it remains dense
    total: RetainedShares  # mean over the layers, weighted by their sum of |w|


def measure_retained(
    module: nn.Module, sparsity: NMSparsity, earlier: RetainedMagnitude | None = None
) -> RetainedMagnitude:
    """Measure what the masks of `sparsity` retain of a network.

    Args:
        module: The network, whose weights are still dense.
        sparsity: The pattern, its runtime, and layers that remain dense.
        earlier: The result before channels were permuted.

    Returns:
        The shares of each layer and of all together.
    """
    layers = candidates(module, sparsity)
    before = {layer.tensor: shares.before for layer, shares in earlier.layers if shares} if earlier else {}
    shares: dict[str, RetainedShares] = {}
    sizes: dict[str, float] = {}
    for name, weight in maskable_weights(module, layers).items():
        after = retained_share(weight, magnitude_mask(weight, sparsity.pattern))
        shares[name] = RetainedShares(before.get(name, after), after, upper_bound_share(weight, sparsity.pattern))
        sizes[name] = float(weight.abs().sum())

    def mean(field: str) -> float:
        weighted: float = sum(getattr(shares[name], field) * size for name, size in sizes.items())
        return weighted / (sum(sizes.values()) or 1.0)

    total = RetainedShares(mean("before"), mean("after"), mean("upper_bound"))
    return RetainedMagnitude(sparsity, tuple((layer, shares.get(layer.tensor)) for layer in layers), total)
