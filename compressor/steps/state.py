"""What flows through the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from compressor.agreement import Agreement
from compressor.core import (
    Certificate,
    ChannelGroup,
    Cost,
    ErrorCurves,
    JacobianIsometry,
    KeptIndices,
    LoadedModel,
    Metric,
    OptimizerState,
    PrunePlan,
    TrainingHistory,
)
from compressor.execution.copies import copy_module
from compressor.graph.dependency_graph import DependencyGraph
from compressor.graph.residual_blocks import ResidualBlock
from compressor.models.inputs.example_inputs import example_inputs
from compressor.reconstruction.sequential import ReconstructionResult
from compressor.sparsity.retained_magnitude import RetainedMagnitude
from compressor.sparsity.sr_ste import SRSTEState
from compressor.steps.latency_probe import LatencyEstimate
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import relative_kept, removed_per_group


@dataclass(frozen=True, slots=True)
class Baseline:
    """The model that the run began with."""

    module: nn.Module
    cost: Cost  # of the original model, where this one had been pruned before; targets are shares of it
    kept: KeptIndices  # what an earlier run had kept of the original
    graph: DependencyGraph
    groups: tuple[ChannelGroup, ...]  # including what the recipe froze


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model in the middle of its training."""

    weights: Mapping[str, Tensor]  # and buffers
    optimizer: OptimizerState


@dataclass(frozen=True, slots=True)
class BlockSelection:
    """The residual blocks that could be dropped, and those that were, in the order in which they were chosen."""

    candidates: tuple[ResidualBlock, ...]
    dropped: tuple[str, ...]
    divergence: tuple[float, ...] = ()  # of the answers, after each drop and its repair; empty where blocks were named
    by_count: Mapping[int, float] = field(default_factory=dict)  # blocks -> divergence at the target, where compared


@dataclass(frozen=True, slots=True)
class PruningState:
    """The model as it is now, and how it got there."""

    model: LoadedModel
    baseline: Baseline
    graph: DependencyGraph | None = None  # of the model; None once channels were removed
    groups: tuple[ChannelGroup, ...] = ()  # of the graph, including what the recipe froze
    plan: PrunePlan | None = None  # selected from these groups and not removed yet
    selections: int = 0  # number of selections so far
    removed: PrunePlan | None = None  # everything removed so far, in the baseline's groups
    blocks: BlockSelection | None = None  # dropped in this run
    zeroed: bool = False  # the selected channels were trained to exactly zero, so that their removal is lossless
    certificate: Certificate | None = None  # of everything done so far
    optimizer: OptimizerState = field(default_factory=dict)  # of the last training
    saved: Snapshot | None = None  # that RewindWeights returns to
    extra_epochs: int = 0  # by which the retraining lasts longer than the recipe says
    epochs_done: int = 0  # of the retraining, by trainings before it
    masks: Mapping[str, Tensor] = field(default_factory=dict)  # weight -> False where it is held at zero
    sparse: RetainedMagnitude | None = None  # what N:M masks keep of each layer
    regrow: SRSTEState | None = None  # the masked weights that the next training may bring back
    reconstruction: ReconstructionResult | None = None  # of the last reconstruction
    agreement: Mapping[str, Agreement] = field(default_factory=dict)  # stage -> with the dense model, on test samples
    errors: ErrorCurves | None = None  # of the groups, where channels were selected by error
    latency: LatencyEstimate | None = None  # of the selected channels, where a latency was the target
    metric: Metric | None = None  # of the data's task
    quality: Mapping[str, float] = field(default_factory=dict)  # stage -> that metric on the test set
    isometry: Mapping[str, JacobianIsometry] = field(default_factory=dict)  # stage -> on training images
    trainings: tuple[TrainingHistory, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)  # step or stage -> time it took
    steps: tuple[str, ...] = ()  # names of the steps so far

    @property
    def masked_weights(self) -> int:
        """Number of weights that masks hold at zero."""
        return sum(int((~mask).sum()) for mask in self.masks.values())

    def example_inputs(self, images: int = 1) -> tuple[Tensor, ...]:
        """Inputs that the model takes, a batch of `images`."""
        return example_inputs(self.model, images)

    def with_module(self, module: nn.Module) -> PruningState:
        """The state with other weights of the same shapes."""
        return replace(self, model=replace(self.model, module=module))

    def with_weights(self, weights: Mapping[str, Tensor]) -> PruningState:
        """The state with a copy of its module that has these weights and buffers."""
        module = copy_module(self.model.module)
        module.load_state_dict(weights)
        return self.with_module(module)

    def with_graph(self) -> PruningState:
        """The state with the graph of the model as it is now."""
        if self.graph is not None:
            return self
        graph = analyze(self.model.module, *example_inputs(self.model), name=self.model.name)
        return replace(self, graph=graph, groups=graph.groups)

    def with_normalized_channels(self) -> PruningState | None:
        """The state in which channels that a norm mixes can be removed as well; None where no norm mixes channels."""
        inputs, name = example_inputs(self.model), self.model.name
        graph = analyze(self.model.module, *inputs, name=name, mixing=True)
        if not graph.mixtures:
            return None
        first = graph if not self.is_smaller else analyze(self.baseline.module, *inputs, name=name, mixing=True)
        baseline = replace(self.baseline, graph=first, groups=first.groups)
        return replace(self, baseline=baseline, graph=graph, groups=graph.groups)

    @property
    def kept_of_baseline(self) -> KeptIndices:
        """The kept indices, in the numbering of the model that the run began with."""
        return relative_kept(self.baseline.kept, self.model.kept)

    @property
    def is_pruned(self) -> bool:
        """Whether channels, blocks or weights are missing that the run began with."""
        return bool(self.kept_of_baseline or self.masks) or self.is_smaller

    @property
    def lost_blocks(self) -> bool:
        """Whether residual blocks were dropped in this run."""
        return self.blocks is not None and bool(self.blocks.dropped)

    @property
    def is_smaller(self) -> bool:
        """Whether channels or blocks were removed in this run."""
        return self.removed is not None or self.lost_blocks

    def removed_before(self) -> Mapping[str, int]:
        """Group of the present graph -> number of channels that earlier rounds removed from it."""
        if self.removed is None:
            return {}
        return removed_per_group(self.groups, self.baseline.groups, self.removed, self.kept_of_baseline)

    @property
    def current_graph(self) -> DependencyGraph:
        """The graph, which `with_graph` makes and a change of the model drops."""
        assert self.graph is not None, "the graph is made before"
        return self.graph

    @property
    def selected(self) -> PrunePlan:
        """The plan, for steps that follow a selection."""
        assert self.plan is not None, "channels are selected before"
        return self.plan

    def after_evaluation(
        self, stage: str, metric: Metric, value: float, isometry: JacobianIsometry | None
    ) -> PruningState:
        """Add what was measured at a stage.

        Args:
            stage: Its name in the report.
            metric: The data's metric.
            value: The metric on the test set.
            isometry: Of the network's Jacobian; None where it is not defined.

        Returns:
            The new state.
        """
        measured = {} if isometry is None else {stage: isometry}
        return replace(
            self,
            metric=metric,
            quality={**self.quality, stage: value},
            isometry={**self.isometry, **measured},
        )

    def after_seconds(self, name: str, seconds: float) -> PruningState:
        """Add time to what a step or stage took.

        Args:
            name: The step or stage.
            seconds: How long it took.

        Returns:
            The new state.
        """
        return replace(self, seconds={**self.seconds, name: self.seconds.get(name, 0.0) + seconds})
