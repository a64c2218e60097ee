"""What dropping blocks saves, and what it does to the answers: measured on trial, without labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from compressor.agreement import classes_scored, measure_agreement
from compressor.budget.target import COSTS, PruningTarget
from compressor.core import Cost
from compressor.execution.dropped_blocks import without_blocks
from compressor.graph.cost import count_cost
from compressor.graph.residual_blocks import ResidualBlock
from compressor.reconstruction.block_divergence import BlockDivergence
from compressor.reconstruction.sequential import reconstruct
from compressor.reconstruction.solver_options import ReconstructionSettings
from compressor.run_log import RunLog
from compressor.steps.base import Step
from compressor.steps.calibration import BATCH_SIZE
from compressor.steps.context import Context
from compressor.steps.latency_search import allowed_ms
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.tensors import as_arguments

MOST_IMAGES, FEWEST_IMAGES = 256, 64  # that repairs are fitted to, and as many that judge
MACS = 3.2e10  # of one pass over them, beyond which fewer images are used


class BlockTrials:
    """Trials on one model: what every block costs, and the answers without some of them."""

    def __init__(
        self, state: PruningState, context: Context, target: PruningTarget, blocks: Sequence[ResidualBlock]
    ) -> None:
        """Draw the samples, and measure what each block costs. Blocks of the same shapes cost the same.

        Args:
            state: The state before blocks are dropped.
            context: Data, seed and a device that is held for all trials.
            target: What has to be reached.
            blocks: The blocks that may be dropped.
        """
        self._state, self._context, self._target = state, context, target
        self._cost = count_cost(state.model.module, *state.example_inputs())
        self._images = int(min(MOST_IMAGES, max(FEWEST_IMAGES, MACS / max(self._cost.macs, 1))))
        data = context.training_data
        batches, self._batch_dims = list(data.calibration_batches(BATCH_SIZE, images=2 * self._images)), data.batch_dims
        half = max(1, len(batches) // 2)
        self._fitted, self._judged = batches[:half], batches[half:] or batches
        dims = {block.name: block.channel_dim for block in blocks}
        self._classes, module = classes_scored(state.model.spec, data), state.model.module
        ordering = self._judged[: max(1, len(self._judged) // 2)]  # the order of blocks needs fewer samples
        self._affine = BlockDivergence(module, dims, self._fitted, ordering, self._classes, self._batch_dims)
        alike = _alike(module, blocks)
        self._costs = self._cost_of_each(alike)
        self._ms, self._dense_ms = self._time_of_each(alike) if target.has_latency_target else ({}, 0.0)
        kind = next((name for name in COSTS if getattr(target, name) is not None), "params" if target.size else "macs")
        self.savings = self._ms or {name: float(getattr(cost, kind)) for name, cost in self._costs.items()}

    def divergence(self, names: Sequence[str]) -> float:
        """The divergence of the answers without these blocks, each repaired by an affine map."""
        return self._affine.of(names)

    def reaches_target(self, names: Sequence[str]) -> bool:
        """Whether dropping these blocks alone reaches the target, as far as it is one of costs or of latency."""
        target, original = self._target, self._state.baseline.cost
        left = {kind: getattr(self._cost, kind) - sum(getattr(self._costs[n], kind) for n in names) for kind in COSTS}
        shares = {kind: getattr(target, kind) for kind in COSTS}
        if target.has_latency_target:
            ms = self._dense_ms - sum(self._ms[name] for name in names)
            if ms > allowed_ms(target, self._dense_ms):
                return False
        elif all(share is None for share in shares.values()):
            return False
        return all(share is None or left[kind] <= share * getattr(original, kind) for kind, share in shares.items())

    def divergence_after(self, state: PruningState, steps: Sequence[Step]) -> float:
        """The divergence of the answers once channels are pruned to the target, too, and all layers reconstructed.

        Args:
            state: The state without some blocks.
            steps: They prune the channels, by fewer samples than in the run.

        Returns:
            The divergence on samples that nothing was fitted to.

        Raises:
            TargetNotReached: The channels that remain are not enough for the target.
        """
        context = replace(self._context, log=RunLog())
        steps = [replace(step, images=self._images) if isinstance(step, SelectChannels) else step for step in steps]
        for step in steps:
            state = step.adapted(state, context).run(state, context)
        dense, dims = state.baseline.module, self._batch_dims
        fitted = [as_arguments(inputs) for inputs in self._fitted]
        settings = ReconstructionSettings(seed=context.seed)
        slim, kept = state.model.module, state.kept_of_baseline
        repaired = reconstruct(dense, slim, kept, fitted, settings, batch_dims=dims).module
        return measure_agreement(dense, repaired, self._judged, self._classes, dims).divergence

    def _cost_of_each(self, alike: Sequence[Sequence[str]]) -> dict[str, Cost]:
        costs: dict[str, Cost] = {}
        for names in alike:
            slim = without_blocks(self._state.model.module, names[:1])
            after = count_cost(slim, *self._state.example_inputs())
            saved = Cost(
                self._cost.params - after.params,
                self._cost.macs - after.macs,
                self._cost.weights - after.weights,
                self._cost.nodes - after.nodes,
            )
            costs |= dict.fromkeys(names, saved)
        return costs

    def _time_of_each(self, alike: Sequence[Sequence[str]]) -> tuple[dict[str, float], float]:
        """Milliseconds of every block: of all blocks of the same shapes together, over their number."""
        assert self._context.latency_probe is not None, "recipes with a latency target name a device"
        module, times = self._state.model.module, dict[str, float]()
        with self._context.latency_probe.open() as session:
            dense_ms = session.time(module)
            for names in alike:
                saved = dense_ms - session.time(without_blocks(module, names))
                times |= dict.fromkeys(names, saved / len(names))
        return times, dense_ms


def _alike(module: nn.Module, blocks: Sequence[ResidualBlock]) -> list[list[str]]:
    """The blocks, those together whose class, parameters and inputs have the same shapes."""
    alike: dict[object, list[str]] = defaultdict(list)
    for block in blocks:
        part = module.get_submodule(block.name)
        shapes = tuple(tuple(parameter.shape) for parameter in part.parameters())
        alike[type(part), shapes, block.shape].append(block.name)
    return list(alike.values())
