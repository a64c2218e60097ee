"""Rules that end the early training: they compare the weights after each epoch.

Each is a pure fold over the weights. They use only methods of tensors, so that a recipe can be read without torch, and
are functions of this module, so that they can be sent to every process of a training.
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
    """Stop once the distance from the weights after epoch 1 hardly changes any more:

        |d_t - d_(t-1)| < factor * d_2,    d_t = |W_t - W_1| / |W_1|

    over all parameters, biases and normalizations included. This is the rule of the code released with Rachwan et al.,
    Winning the Lottery Ahead of Time, ICML 2022, arXiv:2206.10451.

    Args:
        memory: What the rule returned after the epoch before.
        epoch: Epochs done so far.
        weights: All parameters by name.
        factor: `channel_patience` or `weight_patience`.

    Returns:
        The decision, with the two sides of the inequality.
    """
    return _is_settled(memory, epoch, weights, factor=factor, reference=1, power=1)


def lazy_regime_squared(memory: RuleState, epoch: int, weights: Mapping[str, Tensor], *, factor: float) -> StopDecision:
    """Stop once the squared distance from the initial weights hardly changes any more, as on the authors' slides:

        |D_t - D_(t-1)| < factor * D_1,    D_t = |W_t - W_0|^2

    Args:
        memory: What the rule returned after the epoch before.
        epoch: Epochs done so far.
        weights: All parameters by name.
        factor: `channel_patience` or `weight_patience`.

    Returns:
        The decision, with the two sides of the inequality, both divided by |W_0|^2.
    """
    return _is_settled(memory, epoch, weights, factor=factor, reference=0, power=2)


def channel_patience(removed: float) -> float:
    """Return the factor `max(min(0.9 - r, 0.99), (1 - r) / 10)` for a share r of channels that will be removed.

    The released factor is the first term. From r = 0.9 on no change is below it, so that only the last epoch ends the
    training. The second term, which is larger from r = 8/9 on, repairs that; it falls to 0 at r = 1.
    """
    return max(min(0.9 - removed, 0.99), 0.1 * (1 - removed))


def weight_patience(removed: float) -> float:
    """Return the factor `1 - r` for a share r of weights that will be masked."""
    return 1 - removed


def _is_settled(
    memory: RuleState, epoch: int, weights: Mapping[str, Tensor], *, factor: float, reference: int, power: int
) -> StopDecision:
    """Compare the last change of the distance from the weights after epoch `reference` with `factor` times the first.

    `memory` holds those weights, the first distance (`first`) and the last (`last`).
    """
    if epoch < reference:
        return StopDecision({})
    if epoch == reference:
        return StopDecision({f"from {name}": weight for name, weight in weights.items()})
    starts = {name: memory[f"from {name}"].double() for name in weights}
    moved = sum(float((weight.double() - starts[name]).square().sum()) for name, weight in weights.items())
    size = sum(float(start.square().sum()) for start in starts.values())
    now = (moved / size) ** (power / 2)
    first, last = float(memory.get("first", now)), float(memory.get("last", 0.0))
    change, limit = abs(now - last), factor * first
    tensor = next(iter(starts.values())).new_tensor
    return StopDecision({**memory, "first": tensor(first), "last": tensor(now)}, change < limit, change, limit)


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
    """Stop once the newest mask of channels differs from those before it in no more than a share `distance`.

    You et al., Drawing Early-Bird Tickets, ICLR 2020, arXiv:1909.11957. As in their code, the earliest stop is after
    `masks - 1` epochs.

    Args:
        memory: What the rule returned after the epoch before.
        epoch: Epochs done so far.
        weights: All parameters by name.
        removed: The share of channels that a mask leaves out.
        masks: The number of newest masks that are compared.
        distance: The share of channels in which they may differ.

    Returns:
        The decision, with the largest distance and its limit.

    Raises:
        ModelError: The network has no normalization with scales.
    """
    newest = earlybird_mask(bn_scales(weights), removed)
    recent = [*memory.values(), newest][-masks:]
    state = {str(index): mask for index, mask in enumerate(recent)}
    if len(recent) < masks:
        return StopDecision(state)
    largest = max(float((mask ^ newest).double().mean()) for mask in recent[:-1])
    return StopDecision(state, largest <= distance, largest, distance)


def bn_scales(weights: Mapping[str, Tensor]) -> Tensor:
    """Return |s| (n,) of all normalizations, in their order. Raises ModelError if there are none."""
    scales = [weights[name].abs() for name in normalization_scales(weights)]
    if not scales:
        problem = "no normalization with scales, by which Early-Bird selects channels"
        raise ModelError("early-bird/no-normalization", "the network", problem, "use another method")
    from torch import cat

    return cat(scales)


def earlybird_mask(scales: Tensor, removed: float) -> Tensor:
    """Select the channels whose scale is above the int(n * removed)-th of n in ascending order, counted from 0.

    Args:
        scales: |s| (n,) of all channels.
        removed: The share of channels that is left out.

    Returns:
        True (n,) for the channels that are kept.
    """
    threshold = scales.sort().values[int(len(scales) * removed)]
    return scales > threshold
