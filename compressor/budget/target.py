"""How much a run removes, and how scores are compared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from compressor.budget.layer_rules import LayerRule

Scope = Literal["local", "global", "isomorphic", "error"]

COSTS: tuple[Literal["macs", "params", "weights", "nodes"], ...] = ("macs", "params", "weights", "nodes")
"""The targets that are shares of what `core.Cost` counts."""
SHARES = (*COSTS, "size", "memory", "latency")
"""The targets that are shares of the original which may remain."""


@dataclass(frozen=True, slots=True)
class PruningTarget:
    """Either `ratio`, the share of channels to remove from every layer, or shares of the original that may remain."""

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    weights: float | None = None  # of convolutions and linear layers
    nodes: float | None = None  # output channels of these layers, except those of the last one
    size: float | None = None  # of the ONNX file
    memory: float | None = None  # weights, and activations at their peak
    latency: float | None = None  # on the device
    latency_ms: float | None = None
    scope: Scope = "local"
    round_to: int = 1
    allow_finer_rounding: bool = False  # halve `round_to` as often as the target needs it
    rules: tuple[LayerRule, ...] = ()
    config_widths: bool = False  # remove only what a library's configuration can say
    min_keep_ratio: float = 0.0  # share of its original channels that every group keeps; at least one channel

    @property
    def is_empty(self) -> bool:
        """Whether only the policy is set, and nothing is to be removed."""
        return self.ratio is None and self.latency_ms is None and not self.shares

    @property
    def shares(self) -> dict[str, float]:
        """The shares of the original that may remain, by name."""
        return {name: share for name in SHARES if (share := getattr(self, name)) is not None}

    @property
    def has_latency_target(self) -> bool:
        """Whether the device has to be measured."""
        return self.latency is not None or self.latency_ms is not None

    @property
    def allocates_per_layer(self) -> bool:
        """Whether widths are allocated layer by layer, at the least score lost for the time gained."""
        return self.has_latency_target and self.scope == "local"


def pruned_channel_share(target: PruningTarget) -> float | None:
    """Estimate the share r of channels that a target removes.

    It is `1 - nodes`, the node ratio of the paper. Weights, parameters and multiply-adds grow with the square of the
    widths, so that a remaining share s of them gives r = 1 - sqrt(s). Bytes and time are nearer to linear, but treated
    alike. The strictest of several shares counts.

    Args:
        target: The target.

    Returns:
        r, or None where the target names no share.
    """
    if target.ratio is not None:
        return target.ratio
    remaining = [share if name == "nodes" else math.sqrt(share) for name, share in target.shares.items()]
    return 1 - min(remaining) if remaining else None


def pruned_weight_share(target: PruningTarget) -> float | None:
    """The share of weights that a target masks; None where it names none."""
    return None if target.weights is None else 1 - target.weights
