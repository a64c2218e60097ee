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
    Emit,
    Input,
    Isometry,
    Kept,
    LoadedModel,
    Metric,
    Momentum,
    PrunePlan,
    TrainingCost,
)
from compressor.engine.search import Stopwatch
from compressor.graph.couple import Structure
from compressor.sparsity.outcome import Outcome
from compressor.sparsity.straight_through import Regrow
from compressor.training.loop import Trained, train


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What steps are performed with."""

    data: Data | None
    seed: int
    emit: Emit
    checkpoints: Path  # a folder for the state of each training
    identity: str  # of this run; checkpoints of another one are not continued
    train: Callable[..., Trained] = train  # or what does the same with several processes
    stopwatch: Stopwatch | None = None  # of the target device
    settled: tuple[Mapping[str, int], ...] = ()  # widths found before, of a run that is resumed: by step, by group


@dataclass(frozen=True, slots=True)
class Cut:
    """What can go from a model as it is, and, once that is chosen, what does."""

    structure: Structure
    groups: tuple[ChannelGroup, ...]  # with what the recipe froze
    plan: PrunePlan | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """A training as it stood at some time."""

    weights: Mapping[str, Tensor]  # and buffers
    momentum: Momentum


@dataclass(frozen=True, slots=True)
class Work:
    """What flows through the steps: the model as it is now, and what is known of how it got there."""

    model: LoadedModel
    dense: nn.Module  # the model the run began with
    original: Cost  # what targets are shares of
    began: Kept  # what the model had kept when the run began
    structure: Structure  # of the model the run began with
    groups: tuple[ChannelGroup, ...]  # of that model, with what the recipe froze
    plan: PrunePlan | None = None  # all channels of these groups that went so far
    cut: Cut | None = None  # of the model as it is now; None once something went
    certificate: Certificate | None = None
    momentum: Momentum = field(default_factory=dict)  # what the last training's optimizer remembers
    silent: bool = False  # what leaves was held at zero, and where that is so its removal changes nothing
    moment: Moment | None = None  # that a later step goes back to
    longer: int = 0  # epochs that retraining lasts beyond the recipe's; negative where earlier ones are taken off
    masks: Mapping[str, Tensor] = field(default_factory=dict)  # weight -> True where it may be other than zero
    sparse: Outcome | None = None  # what N:M masks keep of each layer
    regrow: Regrow | None = None  # what training lets come back
    metric: Metric | None = None  # of the data's task
    quality: Mapping[str, float] = field(default_factory=dict)  # stage -> that metric on the test set
    isometry: Mapping[str, Isometry] = field(default_factory=dict)  # stage -> on training images
    trainings: tuple[TrainingCost, ...] = ()  # what each took
    seconds: Mapping[str, float] = field(default_factory=dict)
    log: tuple[str, ...] = ()

    @property
    def zeros(self) -> int:
        """Weights that masks hold at zero."""
        return sum(int((~mask).sum()) for mask in self.masks.values())


def example(model: LoadedModel, images: int = 1) -> tuple[Tensor, ...]:
    """Seeded inputs as the model takes them, a batch of `images`: normal numbers, or whole ones within their bounds."""
    random = torch.Generator().manual_seed(0)
    return tuple(_noise(each, images, random) for each in model.spec.inputs)


def samples(model: LoadedModel, data: Data | None, images: int) -> tuple[Tensor, ...]:
    """Real images where there are any, seeded noise otherwise."""
    if data is None:
        return example(model, images)
    return (torch.cat(list(data.plain_batches(images, images=images))),)


def _noise(like: Input, batch: int, random: torch.Generator) -> Tensor:
    shape = (batch, *like.shape)
    if like.whole is None:
        return torch.randn(shape, generator=random)
    least, largest = like.whole
    return torch.randint(least, largest + 1, shape, generator=random).to(getattr(torch, like.dtype))
