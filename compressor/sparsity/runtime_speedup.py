"""Predicts what a runtime gains by N:M masks, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressor.core import NMPattern
from compressor.sparsity.masking import Candidate
from compressor.sparsity.runtimes import AS_OF, RUNTIMES, NMSparsity


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
