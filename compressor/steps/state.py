"""What flows through the steps of a run, and what they are performed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.core import (
    Certificate,
    ChannelGroup,
    Cost,
    Data,
    EventSink,
    JacobianIsometry,
    KeptIndices,
    LoadedModel,
    Metric,
    ModelInput,
    OptimizerState,
    PrunePlan,
    TrainingCost,
)
from compressor.graph.dependency_graph import DependencyGraph
from compressor.sparsity.retained_magnitude import RetainedMagnitude
from compressor.sparsity.sr_ste import SRSTEState
from compressor.steps.latency_search import LatencyProbe
from compressor.training.loop import TrainResult, train


@dataclass(frozen=True, slots=True)
class Context:
    """What steps are performed with."""

    data: Data | None
    seed: int
    emit: EventSink
    checkpoints: Path  # a folder for the state of each training
    identity: str  # of this run; checkpoints of another one are not continued
    train: Callable[..., TrainResult] = train  # or what does the same with several processes
    stopwatch: LatencyProbe | None = None  # of the target device
    settled: tuple[Mapping[str, int], ...] = ()  # widths found before, of a run that is resumed: by step, by group


@dataclass(frozen=True, slots=True)
class Candidates:
    """What can go from a model as it is, and, once that is chosen, what does."""

    structure: DependencyGraph
    groups: tuple[ChannelGroup, ...]  # with what the recipe froze
    plan: PrunePlan | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A training as it stood at some time."""

    weights: Mapping[str, Tensor]  # and buffers
    momentum: OptimizerState


@dataclass(frozen=True, slots=True)
class PruningState:
    """What flows through the steps: the model as it is now, and what is known of how it got there."""

    model: LoadedModel
    dense: nn.Module  # the model the run began with
    original: Cost  # what targets are shares of
    began: KeptIndices  # what the model had kept when the run began
    structure: DependencyGraph  # of the model the run began with
    groups: tuple[ChannelGroup, ...]  # of that model, with what the recipe froze
    plan: PrunePlan | None = None  # all channels of these groups that went so far
    cut: Candidates | None = None  # of the model as it is now; None once something went
    certificate: Certificate | None = None
    momentum: OptimizerState = field(default_factory=dict)  # what the last training's optimizer remembers
    silent: bool = False  # what leaves was held at zero, and where that is so its removal changes nothing
    moment: Snapshot | None = None  # that a later step goes back to
    longer: int = 0  # epochs that retraining lasts beyond the recipe's; negative where earlier ones are taken off
    masks: Mapping[str, Tensor] = field(default_factory=dict)  # weight -> True where it may be other than zero
    sparse: RetainedMagnitude | None = None  # what N:M masks keep of each layer
    regrow: SRSTEState | None = None  # what training lets come back
    metric: Metric | None = None  # of the data's task
    quality: Mapping[str, float] = field(default_factory=dict)  # stage -> that metric on the test set
    isometry: Mapping[str, JacobianIsometry] = field(default_factory=dict)  # stage -> on training images
    trainings: tuple[TrainingCost, ...] = ()  # what each took
    seconds: Mapping[str, float] = field(default_factory=dict)
    log: tuple[str, ...] = ()

    @property
    def zeros(self) -> int:
        """Weights that masks hold at zero."""
        return sum(int((~mask).sum()) for mask in self.masks.values())


def example_inputs(model: LoadedModel, images: int = 1) -> tuple[Tensor, ...]:
    """Seeded inputs as the model takes them, a batch of `images`: normal numbers, or whole ones within their bounds."""
    random = torch.Generator().manual_seed(0)
    return tuple(_noise(each, images, random) for each in model.spec.inputs)


def calibration_inputs(model: LoadedModel, data: Data | None, images: int) -> tuple[Tensor, ...]:
    """Real images where there are any, seeded noise otherwise."""
    if data is None:
        return example_inputs(model, images)
    return (torch.cat(list(data.calibration_batches(images, images=images))),)


def _noise(like: ModelInput, batch: int, random: torch.Generator) -> Tensor:
    shape = (batch, *like.shape)
    if like.whole is None:
        return torch.randn(shape, generator=random)
    least, largest = like.whole
    return torch.randint(least, largest + 1, shape, generator=random).to(getattr(torch, like.dtype))
