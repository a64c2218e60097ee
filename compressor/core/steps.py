"""The steps a method is made of. Values only: the engine performs them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from compressor.core.early_stopping import EarlyStop
from compressor.core.penalties import Penalty
from compressor.core.settings import (
    BatchNormGateCriterion,
    ChannelCriterion,
    Distillation,
    GradientCriterion,
    LayerRule,
    NMSparsity,
    NormScaleCriterion,
    OptimizerSettings,
    Precision,
    PruningTarget,
    Schedule,
    SynapticFlow,
    WeightCriterion,
)

RETRAINING = "retraining"
"""The stage of the recipe's own training, after the method's."""


def criterion_name(criterion: ChannelCriterion | WeightCriterion) -> str:
    """What a criterion is called in words."""
    if isinstance(criterion, NormScaleCriterion):
        return f"{criterion_name(criterion.value)} of scales"
    if isinstance(criterion, BatchNormGateCriterion | GradientCriterion | SynapticFlow):
        return criterion.name
    return getattr(criterion, "__name__", "criterion")


@dataclass(frozen=True, slots=True)
class SelectChannels:
    """Score every channel and decide which stay."""

    criterion: ChannelCriterion
    selection: PruningTarget

    def __str__(self) -> str:
        return f"SelectChannels({criterion_name(self.criterion)})"


@dataclass(frozen=True, slots=True)
class RemoveChannels:
    """Take the channels that were not chosen out of the module, and prove that only they went."""

    last: bool = True  # of several rounds; the test set is not read after the others

    def __str__(self) -> str:
        return "RemoveChannels"


@dataclass(frozen=True, slots=True)
class Recalibrate:
    """Estimate BatchNorm statistics anew from training images."""

    images: int = 4096

    def __str__(self) -> str:
        return f"Recalibrate({self.images} images)"


@dataclass(frozen=True, slots=True)
class Orthogonalize:
    """Make the filters of every convolution and linear layer orthogonal, times `gain`."""

    gain: float

    def __str__(self) -> str:
        return f"Orthogonalize(gain {self.gain:.3g})"


@dataclass(frozen=True, slots=True)
class Reinitialize:
    """Random weights again; after removal, retraining may last longer to make up for what the dense model was given."""

    dense_epochs: int = 0  # that the dense model was trained for
    flops: bool = False  # what is equal: multiply-adds spent, or epochs

    def longer(self, macs_ratio: float) -> int:
        """Epochs to train beyond the retraining's; `macs_ratio` is dense / slim."""
        return round(self.dense_epochs * (macs_ratio if self.flops else 1.0))

    def __str__(self) -> str:
        return f"Reinitialize(equal {'FLOPs' if self.flops else 'epochs'})" if self.dense_epochs else "Reinitialize"


@dataclass(frozen=True, slots=True)
class Train:
    """Train, for so many `epochs` or so many `iterations`; or for fewer, where `stop` is done before.

    The learning rate at any moment is `optimizer.lr * schedule(epochs done)`. What the optimizer remembers of an
    earlier training (momentum) goes on, sliced with the weights where channels were removed in between.
    """

    batch_size: int
    optimizer: OptimizerSettings
    schedule: Schedule
    epochs: int = 0
    iterations: int | None = None  # instead of epochs
    stop: EarlyStop | None = None  # a rule that may end it before
    only: Literal["all", "scales"] = "all"  # what is trained; scales = scales and shifts of normalisations
    measured: bool = True  # whether the test set is read after it
    first: int = 0  # epochs of its course that are over: whose batches come next
    counted: bool = False  # whether its epochs are taken off the retraining's
    stage: str = RETRAINING  # what it is for
    precision: Precision = "auto"
    label_smoothing: float = 0.0
    mixup: float = 0.0  # alpha of its Beta distribution; 0 = no
    cutmix: float = 0.0  # likewise
    distill: Distillation | None = None
    penalty: Penalty | None = None
    clip: float | None = None  # largest norm of all gradients together
    ema: float | None = None  # decay of the average of the weights that is kept in the end
    keep: Literal["last", "best"] = "last"  # which epoch's weights: best = on the held-out split

    def part(self, first: int, last: int) -> Train:
        """Epochs `first` to `last` of its course, with the rates and batches that they have in the whole."""
        schedule = self.schedule
        shifted: Schedule = lambda done: schedule(first + done)  # noqa: E731
        return replace(self, epochs=last - first, first=self.first + first, schedule=shifted)

    def extended(self, epochs: int) -> Train:
        """The same course of learning rates over so many more epochs, or fewer where negative, but at least one."""
        whole, schedule = max(self.epochs + epochs, 1), self.schedule
        return replace(self, epochs=whole, schedule=lambda done: schedule(done * self.epochs / whole))

    def __str__(self) -> str:
        length = f"{self.epochs} epochs" if self.iterations is None else f"{self.iterations} iterations"
        more = {"distilled": self.distill, "mixup": self.mixup, "cutmix": self.cutmix, "EMA": self.ema}
        only = ["scales only"] if self.only == "scales" else []
        names = [*only, *(name for name, on in more.items() if on), *((self.penalty.name,) if self.penalty else ())]
        if self.stop is not None:
            return f"Train({', '.join([f'until {self.stop.name}, {length} at most', self.optimizer.name, *names])})"
        return f"Train({', '.join([length, self.optimizer.name, *names])})"


@dataclass(frozen=True, slots=True)
class FinetuneSegment:
    """The recipe's own training, where a method asks for it before its end, or only for a part of its course.

    It stands for a `Train`, which takes its place before anything is performed. Methods that say nothing of it are
    followed by the whole of it.
    """

    first: int = 0  # epoch of its course to begin at
    last: int | None = None  # and to end before; None = all that is left
    stage: str = RETRAINING

    def of(self, training: Train) -> Train:
        """This part of the recipe's training."""
        last = training.epochs if self.last is None else self.last
        return replace(training.part(self.first, last), stage=self.stage)

    def __str__(self) -> str:
        return f"FinetuneSegment(from epoch {self.first}{'' if self.last is None else f' to {self.last}'})"


@dataclass(frozen=True, slots=True)
class SaveWeights:
    """Keep the weights, and what the optimizer remembers of them, as they are now."""

    def __str__(self) -> str:
        return "SaveWeights"


@dataclass(frozen=True, slots=True)
class RewindWeights:
    """Weights and momentum as they were at the last `SaveWeights`; masked weights stay zero."""

    def __str__(self) -> str:
        return "RewindWeights"


@dataclass(frozen=True, slots=True)
class PermuteChannels:
    """Put the channels into the order in which a mask keeps most, and prove that the function is the same."""

    sparsity: NMSparsity
    rounds: int  # of the search, for each group of channels

    def __str__(self) -> str:
        return f"PermuteChannels({self.sparsity.pattern})"


@dataclass(frozen=True, slots=True)
class MaskNM:
    """Zero all but the largest N of every M weights. Training leaves zeros zero, or lets others take their place.

    `regrow`: the strength with which SR-STE pulls masked weights towards zero while it goes on training them.
    """

    sparsity: NMSparsity
    regrow: float | None = None

    def __str__(self) -> str:
        return f"MaskNM({self.sparsity.pattern}{'' if self.regrow is None else ', SR-STE'})"


@dataclass(frozen=True, slots=True)
class MaskUnstructured:
    """Zero all but the best of all weights of convolutions and linear layers, compared with each other. Training leaves
    zeros zero.

    `keep`: the share of the ORIGINAL's weights that may remain, after each round. Scores are found anew in every
    round, where the weights masked so far are zero. `nested`: what is masked stays masked, in later rounds and by later
    steps; else every round compares all weights, each by the value it had before the first.
    """

    criterion: WeightCriterion
    keep: tuple[float, ...]
    nested: bool = True
    guard: bool = True  # every layer keeps its best weight, whatever the others are worth
    rules: tuple[LayerRule, ...] = ()

    def __str__(self) -> str:
        rounds = f", {len(self.keep)} rounds" if len(self.keep) > 1 else ""
        return f"MaskUnstructured({criterion_name(self.criterion)}, {100 * self.keep[-1]:.4g} % remain{rounds})"


@dataclass(frozen=True, slots=True)
class RemoveDeadChannels:
    """Take out the channels that nobody reads, or that are zero everywhere, and prove that nothing else changed."""

    def __str__(self) -> str:
        return "RemoveDeadChannels"


Step = (
    SelectChannels
    | RemoveChannels
    | PermuteChannels
    | MaskNM
    | MaskUnstructured
    | RemoveDeadChannels
    | Recalibrate
    | Orthogonalize
    | Reinitialize
    | Train
    | FinetuneSegment
    | SaveWeights
    | RewindWeights
)
