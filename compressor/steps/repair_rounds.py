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
from compressor.steps.calibration import BATCH_SIZE
from compressor.steps.reconstruct import Reconstruct
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState

JUDGED = 256
"""Training samples, behind those of the repair, that choose the number of rounds."""


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
            The state after the best schedule.
        """
        candidates = [self._in_rounds(state, targets, context) for targets in self.schedules]
        if len(candidates) == 1:
            return candidates[0]
        divergences = [_divergence(state, candidate, self.repair.images, context) for candidate in candidates]
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


def _divergence(before: PruningState, after: PruningState, repaired_on: int, context: Context) -> float:
    """Divergence from the dense model on samples behind those of the repair, or on its last without others."""
    from compressor.agreement import classes_scored, measure_agreement

    data = context.training_data
    batches = list(data.calibration_batches(BATCH_SIZE, images=repaired_on + JUDGED))
    judged = batches[-(JUDGED // BATCH_SIZE) :]
    classes = classes_scored(after.model.spec, data)
    return measure_agreement(before.baseline.module, after.model.module, judged, classes, data.batch_dims).divergence
