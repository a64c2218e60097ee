"""Remove the channels that masks have left without effect."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compressor.core import PrunePlan
from compressor.steps.base import Step
from compressor.steps.remove_channels import RemoveChannels

if TYPE_CHECKING:
    from compressor.core import LoadedModel
    from compressor.graph.dependency_graph import DependencyGraph
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState


@dataclass(frozen=True, slots=True)
class RemoveDeadChannels(Step):
    """Remove channels that no layer reads or that are zero everywhere, and prove that the outputs are the same."""

    in_plan: ClassVar[bool] = False

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Remove them; the state is unchanged where there are none.

        Args:
            state: What the steps before it left.
            context: Its log gets a note.

        Returns:
            The state with the smaller model, and with masks of the new shapes.
        """
        from compressor.surgery.removal import slice_tensors

        state = state.with_graph()
        plan = _lossless_plan(state.model, state.current_graph)
        if not plan.kept:
            return state
        removed = sum(int((~kept_C).sum()) for kept_C in plan.kept.values())
        context.log.note(f"{removed} channels of {len(plan.kept)} groups had no effect any more and were removed")
        masks = slice_tensors(state.masks, state.groups, plan)
        state = RemoveChannels().run(replace(state, plan=plan, zeroed=True), context)
        return replace(state, masks=masks)


def _lossless_plan(model: LoadedModel, graph: DependencyGraph) -> PrunePlan:
    """The dead channels whose removal changes no output; group by group where all together would."""
    from compressor.models.inputs.example_inputs import example_inputs
    from compressor.surgery.certificate import output_change
    from compressor.surgery.dead_channels import dead_channels
    from compressor.surgery.removal import remove_channels

    plan = dead_channels(model.module, graph.groups)

    def is_lossless(part: PrunePlan) -> bool:
        slim = remove_channels(model.module, graph, part)
        return output_change(model.module, slim, *example_inputs(model, images=2)).ok

    if not plan.kept or is_lossless(plan):
        return plan
    return PrunePlan({name: kept_C for name, kept_C in plan.kept.items() if is_lossless(PrunePlan({name: kept_C}))})
