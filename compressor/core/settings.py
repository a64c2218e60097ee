"""What a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compressor.core.groups import NMPattern

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class NMSparsity:
    """Which zeros, and in which layers: those that `runtime` can use, but for the globs of `dense`."""

    pattern: NMPattern
    runtime: str  # a row of the table of runtimes and device generations
    dense: tuple[str, ...] = ()
    packed: bool = False  # stored as values and places


@dataclass(frozen=True, slots=True)
class LayerRule:
    """A glob on module names; the first that matches a layer decides. `ratio`: share of channels removed."""

    match: str
    freeze: bool = False
    ratio: float | None = None


Scope = Literal["local", "global", "isomorphic"]


@dataclass(frozen=True, slots=True)
class PruningTarget:
    """How many channels go, and how scores are compared.

    Either `ratio` (share of channels removed from every layer) or shares of the original cost that may remain.
    """

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    weights: float | None = None  # of convolutions and linear layers
    nodes: float | None = None  # output channels of these layers, but for the last one's
    size: float | None = None  # of the ONNX file
    memory: float | None = None  # weights, and activations at their peak
    latency: float | None = None  # on the target device
    latency_ms: float | None = None
    scope: Scope = "local"
    round_to: int = 1
    allow_finer_rounding: bool = False  # where that is too coarse for the target, halve it as often as it takes
    rules: tuple[LayerRule, ...] = ()
    floor: float = 0.0  # share of the channels it had at first that every group keeps; one at the least

    @property
    def asks(self) -> bool:
        """Whether channels are to go at all: anything but how is said."""
        return self != PruningTarget(
            scope=self.scope,
            round_to=self.round_to,
            allow_finer_rounding=self.allow_finer_rounding,
            rules=self.rules,
            floor=self.floor,
        )

    @property
    def timed(self) -> bool:
        """Whether a device has to be asked."""
        return self.latency is not None or self.latency_ms is not None

    @property
    def allocates_per_layer(self) -> bool:
        """Whether widths are what costs least importance for the time, and not in one order of all channels."""
        return self.timed and self.scope == "local"


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    name: Literal["sgd", "adam", "adamw"]
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    decay_all: bool = True  # False = no decay of biases and normalisations
    key: str = "retrain.optimizer.lr"  # what a recipe calls `lr`


@dataclass(frozen=True, slots=True)
class Distillation:
    """Learn from the dense model: `(1 - weight) * task + weight * answers + features * maps`.

    Without `labels` the loss is `answers + features * maps`: the task has no part in it.
    """

    temperature: float = 4.0
    weight: float = 0.5
    features: float = 0.0
    labels: bool = True


Precision = Literal["auto", "fp32", "bf16", "fp16"]

Schedule = Callable[[float], float]
"""epochs done so far (fractional) -> factor on the optimizer's learning rate"""

FilterCriterion = Callable[["Tensor"], "Tensor"]
"""rows (N, K) of the weights that write N channels -> score (N,), the lowest is removed first"""


@dataclass(frozen=True, slots=True)
class NormScaleCriterion:
    """A criterion of what normalisations multiply channels by, in place of the filters that write them."""

    value: FilterCriterion  # of rows (N, 1)


@dataclass(frozen=True, slots=True)
class BatchNormGateCriterion:
    """A criterion of gates behind normalisations, that training batches tell.

    A gate multiplies the whole of what a normalisation gives, its scale s and its shift t alike. With u and v the
    gradients of a batch's loss to them, `value(s, u, t, v)` says what each gate matters for on that batch (N,), not
    negative; a channel has the sum over batches and over all gates that it passes. The network is as while training.
    """

    name: str
    value: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    batches: int | None = None  # None = all of an epoch
    batch_size: int = 128


@dataclass(frozen=True, slots=True)
class GradientCriterion:
    """A criterion that training batches tell: what every weight matters for, by its gradients.

    With w the weights of a layer, g the gradient of the loss summed over the batches and h = H g the product of the
    loss's Hessian with that gradient (0 where `order` is 1), `value(w, g, h)` says what each entry matters for, signed,
    in the shape of w. A channel has the sum over all weights and biases that write it. The lowest goes first: of
    magnitudes, or of the signed values themselves where `signed`.
    """

    name: str
    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    order: Literal[1, 2] = 1
    signed: bool = False
    batches: int = 5
    batch_size: int = 128
    training: bool = False  # BatchNorm and dropout as while training; else their running statistics, and none
    loss: Literal["task", "logit"] = "task"  # logit = minus the mean answer for the right class, without a softmax
    temperature: float = 1.0  # what answers are divided by


ChannelCriterion = FilterCriterion | NormScaleCriterion | BatchNormGateCriterion | GradientCriterion

EntryCriterion = Callable[["Tensor"], "Tensor"]
"""weight of a layer, any shape -> score of each of its entries, the lowest goes first"""


@dataclass(frozen=True, slots=True)
class SynapticFlow:
    """A criterion that the network tells by itself, without data.

    With every number of the network at its absolute value and R the sum of all answers to an input of ones,
    `value(w, dR/dw)` says what each entry of a weight matters for; the lowest goes first.
    """

    name: str
    value: Callable[[Tensor, Tensor], Tensor]


WeightCriterion = EntryCriterion | GradientCriterion | SynapticFlow
"""what single weights are compared by"""
