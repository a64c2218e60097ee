"""When to prune: rules that watch the weights while the dense network trains, and end that training.

Each is a pure fold over the weights after every epoch. Written with tensor methods only, so that reading a recipe does
not load torch; functions of modules, so that every process of a training can be handed them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from compressor.core import normalization_scales
from compressor.errors import ModelError
from compressor.training.early_stopping import RuleState, StopDecision

if TYPE_CHECKING:
    from torch import Tensor

# ---------------------------------------------------------------- the lazy regime


def lazy_regime(memory: RuleState, epoch: int, weights: Mapping[str, Tensor], *, factor: float) -> StopDecision:
    """Done when the weights' way from where they were after epoch 1 hardly grows any more:

        |d_t - d_(t-1)| < factor * d_2,    d_t = |W_t - W_1| / |W_1|

    over all parameters, biases and norms included. As released with Rachwan et al., Winning the Lottery Ahead of Time,
    ICML 2022, arXiv:2206.10451; `factor` is `channel_patience` or `weight_patience`.
    """
    return _settled(memory, epoch, weights, factor=factor, reference=1, power=1)


def lazy_regime_squared(memory: RuleState, epoch: int, weights: Mapping[str, Tensor], *, factor: float) -> StopDecision:
    """The same from the initial weights, as the authors' slides have it:

    |D_t - D_(t-1)| < factor * D_1,    D_t = |W_t - W_0|^2

    What is told are shares of |W_0|^2, which is on both sides.
    """
    return _settled(memory, epoch, weights, factor=factor, reference=0, power=2)


def channel_patience(removed: float) -> float:
    """`max(min(0.9 - r, 0.99), (1 - r) / 10)` for a share r of channels that will go.

    The released factor is the first term alone: from r = 0.9 on nothing is below it, so that only the last epoch ended
    the training. The second term takes over from r = 8/9 on, where both are equal, and falls to 0 at r = 1.
    """
    return max(min(0.9 - removed, 0.99), 0.1 * (1 - removed))


def weight_patience(removed: float) -> float:
    """`1 - r` for a share r of weights that will go."""
    return 1 - removed


def _settled(
    memory: RuleState, epoch: int, weights: Mapping[str, Tensor], *, factor: float, reference: int, power: int
) -> StopDecision:
    """Done when the distance from the weights after epoch `reference` changes by less than `factor` times its first
    change. `memory`: those weights, the first distance (`first`) and the last (`last`)."""
    if epoch < reference:
        return StopDecision({})
    if epoch == reference:
        return StopDecision({f"from {name}": each for name, each in weights.items()})
    starts = {name: memory[f"from {name}"].double() for name in weights}
    moved = sum(float((each.double() - starts[name]).square().sum()) for name, each in weights.items())
    size = sum(float(each.square().sum()) for each in starts.values())
    now = (moved / size) ** (power / 2)
    first, last = float(memory.get("first", now)), float(memory.get("last", 0.0))
    change, limit = abs(now - last), factor * first
    number = next(iter(starts.values())).new_tensor
    return StopDecision({**memory, "first": number(first), "last": number(now)}, change < limit, change, limit)


# ---------------------------------------------------------------- early-bird tickets


def early_bird(
    memory: RuleState,
    epoch: int,
    weights: Mapping[str, Tensor],
    *,
    removed: float,
    masks: int = 5,
    distance: float = 0.1,
) -> StopDecision:
    """Done when the channels that would go have settled: the newest of the last `masks` masks differs from each of the
    others in no more than a share `distance` of the channels.

    A mask keeps the channels whose scale |g|, of all normalisations together, is above the int(n * removed)-th of n in
    ascending order, counted from 0. You et al., Drawing Early-Bird Tickets, ICLR 2020, arXiv:1909.11957; as in their
    code, the earliest end is after `masks - 1` epochs.
    """
    newest = earlybird_mask(bn_scales(weights), removed)
    kept = [*memory.values(), newest][-masks:]
    remembered = {str(place): each for place, each in enumerate(kept)}
    if len(kept) < masks:
        return StopDecision(remembered)
    apart = max(float((each ^ newest).double().mean()) for each in kept[:-1])
    return StopDecision(remembered, apart <= distance, apart, distance)


def bn_scales(weights: Mapping[str, Tensor]) -> Tensor:
    """|g| (n,) of all normalisations, in their order. Raises ModelError where there are none."""
    found = [weights[name].abs() for name in normalization_scales(weights)]
    if not found:
        raise ModelError(
            "early-bird/no-normalization",
            "prune.method",
            "the network has no normalization layers with scales",
            "use another method",
        )
    from torch import cat

    return cat(found)


def earlybird_mask(scale: Tensor, removed: float) -> Tensor:
    """True (n,) where a scale is strictly above the int(n * removed)-th in ascending order, counted from 0."""
    threshold = scale.sort().values[int(len(scale) * removed)]
    return scale > threshold
