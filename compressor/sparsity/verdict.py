"""What a runtime will make of the masks, in words, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressor.core import Pattern, Sparsity
from compressor.sparsity.layers import Candidate
from compressor.sparsity.support import AS_OF, RUNTIMES


def expected_at_most(share: float, pattern: Pattern) -> float:
    """Amdahl's bound: `share` of the multiply-adds run m/n times faster, the rest as before."""
    return 1 / (1 - share * (1 - pattern.n / pattern.m))


def verdict(sparsity: Sparsity, target: str | None, candidates: Sequence[Candidate], macs: Mapping[str, int]) -> str:
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
