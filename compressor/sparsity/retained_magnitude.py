"""How much of each layer's weight a mask keeps, with and without another order of channels, and of what bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from compressor.core import NMPattern
from compressor.sparsity.masking import Candidate, candidates, weights_of
from compressor.sparsity.nm_masks import magnitude_mask, retained_share, upper_bound_share
from compressor.sparsity.runtimes import AS_OF, RUNTIMES, NMSparsity


@dataclass(frozen=True, slots=True)
class RetainedShares:
    """Shares of the sum of |w|: what masks keep in the order of channels there was at first and in the one there is
    now, and the most that any pattern with as many zeros could keep."""

    first: float
    now: float
    bound: float


@dataclass(frozen=True, slots=True)
class RetainedMagnitude:
    """`layers`: those that can be masked have shares, weighted by their sum of |w| in `total`."""

    sparsity: NMSparsity
    layers: tuple[tuple[Candidate, RetainedShares | None], ...]
    total: RetainedShares


def measure_retained(
    module: nn.Module, sparsity: NMSparsity, earlier: RetainedMagnitude | None = None
) -> RetainedMagnitude:
    """What the mask of `sparsity` keeps of `module`, whose weights are still dense.

    `earlier`: the outcome before channels were put into another order.
    """
    found = candidates(module, sparsity)
    before = {layer.tensor: shares.first for layer, shares in earlier.layers if shares} if earlier else {}
    shares: dict[str, RetainedShares] = {}
    sizes: dict[str, float] = {}
    for name, weight in weights_of(module, found).items():
        now = retained_share(weight, magnitude_mask(weight, sparsity.pattern))
        shares[name] = RetainedShares(before.get(name, now), now, upper_bound_share(weight, sparsity.pattern))
        sizes[name] = float(weight.abs().sum())
    whole = sum(sizes.values()) or 1.0
    first, now, bound = (
        sum(getattr(shares[name], key) * size for name, size in sizes.items()) / whole
        for key in ("first", "now", "bound")
    )
    return RetainedMagnitude(
        sparsity, tuple((each, shares.get(each.tensor)) for each in found), RetainedShares(first, now, bound)
    )


def expected_at_most(share: float, pattern: NMPattern) -> float:
    """Amdahl's bound: `share` of the multiply-adds run m/n times faster, the rest as before."""
    return 1 / (1 - share * (1 - pattern.n / pattern.m))


def runtime_verdict(
    sparsity: NMSparsity, target: str | None, candidates: Sequence[Candidate], macs: Mapping[str, int]
) -> str:
    """In words: what `target`, and where that uses no zeros the runtime the masks are made for, do with them.

    `target`: the row of the runtime that measures, None for none. `macs`: multiply-adds by the name of the weight.
    """
    pattern, planned = sparsity.pattern, sparsity.runtime
    taken = [each for each in candidates if each.reason is None]
    share = sum(macs.get(each.tensor, 0) for each in taken) / max(1, sum(macs.values()))
    reach = f"eligible: {len(taken)} of {len(candidates)} layers with {share:.0%} of the MACs"
    words = []
    if target is not None and not RUNTIMES[target].uses(pattern):
        words.append(f"size only: no speed-up on this runtime ({target}: {RUNTIMES[target].seen})")
    where = target if target is not None and RUNTIMES[target].uses(pattern) else planned
    support = RUNTIMES[where]
    if support.uses(pattern):
        most = f"expected at most {expected_at_most(share, support.rule or pattern):.2f}x"
        if where == target and where.startswith("tensorrt"):
            most += " with the options trt_sparsity_enable: 1 and trt_fp16_enable: 1 of the target,"
        words.append(f"{where}: {reach}, {most} in {' or '.join(support.precisions)} ({support.seen}; {AS_OF})")
    else:
        words.append(f"{where}: no speed-up, it takes no {pattern} weights; {reach}")
    return "; ".join(words)
