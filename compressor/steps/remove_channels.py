"""Remove the selected channels, and prove that nothing else changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from compressor.errors import ModelError, VerificationFailed
from compressor.steps.base import Step

if TYPE_CHECKING:
    from torch import nn

    from compressor.core import Certificate, ChannelGroup
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState


NAMED = 3  # groups at fault that an error names
INSPECT = "run inspect to see why each group is frozen"
_HINTS = {
    "recipe": "unfreeze layers in prune.layers, or set prune.widths to free",
    "criterion": "use a recipe whose criterion scores every layer, such as l1",
}
"""What freezes groups -> what to do about it, the first that applies."""


@dataclass(frozen=True, slots=True)
class RemoveChannels(Step):
    """Remove the selected channels from the module, and prove that nothing else changed."""

    last: bool = True  # of several rounds; the test metric is measured after the last one only

    @property
    def evaluate_as(self) -> str | None:
        return "after surgery" if self.last else None

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Remove the channels. Only after another round, or after blocks were dropped, there may be nothing to remove.

        Args:
            state: The state with a plan.
            context: Not used.

        Returns:
            The state with the slim model and its certificate, without a graph.

        Raises:
            ModelError: The plan removes nothing.
            VerificationFailed: Outputs or cost are not as planned.
        """
        from compressor.surgery.removal import (
            compose_kept,
            plan_from_kept,
            relative_kept,
            remove_channels,
            slice_optimizer_state,
        )

        graph, plan, dense, baseline = state.current_graph, state.selected, state.model, state.baseline
        if not plan.kept and state.is_smaller:
            return replace(state, graph=None, groups=(), plan=None)
        slim = remove_channels(dense.module, graph, plan)
        certificate = _prove(state, slim)
        kept = compose_kept(dense.kept, state.groups, plan, slim)
        removed = plan_from_kept(baseline.groups, relative_kept(baseline.kept, kept))
        return replace(
            state,
            model=replace(dense, module=slim, kept=kept, original=baseline.cost),
            graph=None,
            groups=(),
            plan=None,
            removed=replace(removed, round_to=plan.round_to),
            certificate=certificate.combine(state.certificate),
            optimizer=slice_optimizer_state(state.optimizer, state.groups, plan),
        )


def _prove(state: PruningState, slim: nn.Module) -> Certificate:
    """Check outputs, cost, and that channels which were trained to zero changed nothing."""
    from compressor.graph.cost import count_cost
    from compressor.surgery.certificate import certify_removal, groups_at_fault, output_change

    dense, graph, plan = state.model, state.current_graph, state.selected
    inputs = state.example_inputs(2)
    certificate = certify_removal(dense.module, slim, graph, plan, *inputs)
    if not certificate.ok and certificate.max_abs_error == 0:
        problem = "outputs and layers of the dense model are zero, so that nothing can be compared"
        hint = "give inputs on which it answers: example_inputs() in the file, or other sizes in model.input"
        raise VerificationFailed("certificate/nothing-to-compare", dense.name, problem, hint)
    if not certificate.ok:
        problem = f"slim differs from masked dense by {certificate.max_rel_error:.1e} of the largest output"
        names = list(islice(groups_at_fault(dense.module, graph, plan, *inputs), NAMED))
        rules = ", ".join(f"{{match: {name}, freeze: true}}" for name in names or ["LAYER"])
        at_fault = f", because of {', '.join(names)}" if names else ""
        hint = f"keep layers by --set 'prune.layers=[{rules}]', and report this model"
        raise VerificationFailed("certificate/outputs-differ", dense.name, f"{problem}{at_fault}", hint)
    cost = count_cost(slim, *state.example_inputs())
    if cost.params >= sum(parameter.numel() for parameter in dense.module.parameters()):
        raise nothing_to_prune(dense.name, state.groups)
    expected = graph.cost.of(plan)
    if cost != (replace(expected, macs=cost.macs) if graph.data_dependent else expected):
        problem = f"{cost} counted on the slim module, {expected} planned"
        raise VerificationFailed("cost/differs-from-plan", dense.name, problem, "report this model")
    if state.zeroed and not (change := output_change(dense.module, slim, *inputs)).ok:
        problem = f"removing channels that are zero changed outputs by {change.max_rel_error:.1e} of the largest"
        raise VerificationFailed("lossless-removal/outputs-differ", dense.name, problem, "report this model")
    return certificate


def nothing_to_prune(name: str, groups: Sequence[ChannelGroup]) -> ModelError:
    """Make the error for a model from which nothing is removed.

    Args:
        name: The model.
        groups: Its groups.

    Returns:
        The error, which says whether the target or the model is the reason.
    """
    if free := sum(group.frozen is None for group in groups):
        problem = f"the target removes nothing from its {free} prunable groups"
        return ModelError(
            "nothing-to-prune/target-removes-nothing", name, problem, "lower the target, or lower prune.round_to"
        )
    frozen = [group.frozen for group in groups if group.frozen]
    reasons = sorted({freeze.reason for freeze in frozen})
    problem = f"no channel can be removed ({'; '.join(reasons[:3]) or 'no prunable layers'})"
    hint = next((hint for by, hint in _HINTS.items() if any(freeze.by == by for freeze in frozen)), INSPECT)
    return ModelError("nothing-to-prune/all-frozen", name, problem, hint)
