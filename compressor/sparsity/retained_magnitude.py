"""The share of each layer's weights that an N:M mask retains, before and after channels are permuted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from compressor.core import NMPattern
from compressor.sparsity.masking import Candidate, candidates, maskable_weights
from compressor.sparsity.nm_masks import magnitude_mask, retained_share, upper_bound_share
from compressor.sparsity.runtimes import AS_OF, RUNTIMES, NMSparsity


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


def max_speedup(share: float, pattern: NMPattern) -> float:
    """Compute Amdahl's bound.

    Args:
        share: The share of the multiply-adds that run M/N times faster.
        pattern: N and M.

    Returns:
        The largest possible speed-up.
    """
    return 1 / (1 - share * (1 - pattern.n / pattern.m))


def runtime_verdict(
    sparsity: NMSparsity, target: str | None, candidates: Sequence[Candidate], macs: Mapping[str, int]
) -> str:
    """Describe what a runtime gains by the masks.

    Args:
        sparsity: The pattern and the runtime that it is made for.
        target: The row of RUNTIMES that latency is measured with; None = none.
        candidates: The weights of the network.
        macs: Multiply-adds by the name of the weight.

    Returns:
        What `target` gains. If it uses no zeros, also what the runtime of `sparsity` gains.
    """
    pattern = sparsity.pattern
    eligible = [layer for layer in candidates if layer.reason is None]
    share = sum(macs.get(layer.tensor, 0) for layer in eligible) / max(1, sum(macs.values()))
    reach = f"eligible: {len(eligible)} of {len(candidates)} layers with {share:.0%} of the MACs"
    parts = []
    if target is not None and not RUNTIMES[target].supports(pattern):
        parts.append(f"size only: no speed-up on this runtime ({target}: {RUNTIMES[target].notes})")
    runtime = target if target is not None and RUNTIMES[target].supports(pattern) else sparsity.runtime
    support = RUNTIMES[runtime]
    if support.supports(pattern):
        bound = f"expected at most {max_speedup(share, support.rule or pattern):.2f}x"
        if runtime == target and runtime.startswith("tensorrt"):
            bound += " with the options trt_sparsity_enable: 1 and trt_fp16_enable: 1 of the target,"
        parts.append(f"{runtime}: {reach}, {bound} in {' or '.join(support.precisions)} ({support.notes}; {AS_OF})")
    else:
        parts.append(f"{runtime}: no speed-up, it cannot use {pattern} weights; {reach}")
    return "; ".join(parts)
