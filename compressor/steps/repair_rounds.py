"""Select, remove and repair in several rounds; how many is chosen by the divergence on held-out samples.

After a repair the error of what is left differs from what the dense model's curves say. Where more than half of a model
is removed, a second choice for the repaired model can be the better one, or it can fit the samples of the repair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compressor.budget.target import PruningTarget
from compressor.steps.base import Step
from compressor.steps.held_out import held_out_divergences
from compressor.steps.reconstruct import Reconstruct
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState


@dataclass(frozen=True, slots=True)
class RepairRounds(Step):
    """Try several numbers of rounds, and keep the model whose held-out answers are nearest to the dense model's.

    Attributes:
        select: The selection; its target is replaced by that of each round.
        repair: The reconstruction after each round.
        schedules: The targets of the rounds, one tuple for each number of rounds that is tried.
    """

    needs_data: ClassVar[bool] = True
    selects_channels: ClassVar[bool] = True
    reaches_target: ClassVar[bool] = True
    in_plan: ClassVar[bool] = False
    compares_answers: ClassVar[bool] = True
    evaluate_as: ClassVar[str] = "after reconstruction"

    select: SelectChannels
    repair: Reconstruct
    schedules: tuple[tuple[PruningTarget, ...], ...]

    def __str__(self) -> str:
        counts = " or ".join(str(len(targets)) for targets in self.schedules)
        return f"RepairRounds({counts} of {self.select}, {self.repair})"

    def check_feasible(self, state: PruningState, context: Context) -> None:
        """Check the last round's target.

        Args:
            state: The state at the beginning of the run.
            context: What the step will run with.

        Raises:
            TargetNotReached: The target cannot be reached.
        """
        self.select.check_feasible(state, context)

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Run every schedule.

        Args:
            state: What the steps before it left.
            context: Its training samples are used.

        Returns:
            The state after the best schedule; after the first one where no sample can be held out to compare them.
        """
        data, first = context.data_with_holdout, self.schedules[0]
        if len(self.schedules) == 1 or not data.has_holdout:
            return self._in_rounds(state, first, context)
        candidates = [self._in_rounds(state, targets, context) for targets in self.schedules]
        divergences = held_out_divergences(state, [candidate.model.module for candidate in candidates], data)
        best = min(range(len(candidates)), key=divergences.__getitem__)
        tried = ", ".join(
            f"{len(targets)}: {divergence:.4g}" for targets, divergence in zip(self.schedules, divergences, strict=True)
        )
        context.log.note(f"held-out divergence by number of rounds, {tried}: {len(self.schedules[best])} kept")
        return candidates[best]

    def _in_rounds(self, state: PruningState, targets: Sequence[PruningTarget], context: Context) -> PruningState:
        for target in targets:
            state = replace(self.select, target=target).run(state, context)
            state = RemoveChannels().run(state, context)
            state = self.repair.run(state, context)
        return state
