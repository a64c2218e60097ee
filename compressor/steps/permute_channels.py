"""Permute channels so that N:M masks keep more of the weights, and prove that the function is the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compressor.errors import VerificationFailed
from compressor.sparsity.runtimes import NMSparsity
from compressor.steps.base import Step

if TYPE_CHECKING:
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState


@dataclass(frozen=True, slots=True)
class PermuteChannels(Step):
    """Put the channels into the order in which a mask keeps most, and prove that the function is the same."""

    in_plan: ClassVar[bool] = False

    sparsity: NMSparsity
    rounds: int  # of the search, per group of channels

    def __str__(self) -> str:
        return f"PermuteChannels({self.sparsity.pattern})"

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Search the order and apply it.

        Args:
            state: What the steps before it left, without masks.
            context: Its seed starts the search.

        Returns:
            The state with the permuted model and optimizer's state.

        Raises:
            VerificationFailed: The permuted model computes something else.
        """
        from compressor.sparsity.masking import candidates, maskable_weights
        from compressor.sparsity.permutation_search import best_orders
        from compressor.sparsity.retained_magnitude import measure_retained
        from compressor.surgery.analysis import analyze
        from compressor.surgery.permutation import (
            certify_permutation,
            permutable_groups,
            permute_channels,
            permute_kept,
            permute_optimizer_state,
        )

        assert not state.masks, "PermuteChannels comes before masks"
        model, dense = state.model, state.model.module
        inputs = state.example_inputs(2)
        retained = measure_retained(dense, self.sparsity)
        weights = maskable_weights(dense, candidates(dense, self.sparsity))
        # Norms are the same for any order, so the channels that they mix are free to move.
        graph = analyze(dense, *(x[:1] for x in inputs), name=model.name, mixing=True)
        groups = permutable_groups(dense, [group for group in graph.groups if group.frozen is None], *inputs)

        orders = best_orders(
            weights,
            groups,
            self.sparsity.pattern,
            rounds=self.rounds,
            seed=context.seed,
            progress=context.progress("rounds of the search"),
        )
        certificate = certify_permutation(dense, groups, orders, *inputs)
        if not certificate.ok:
            problem = f"permuted channels change outputs by {certificate.max_rel_error:.1e} of the largest"
            raise VerificationFailed(
                "permutation/outputs-differ", model.name, problem, "report this model; set prune.2of4.permute: false"
            )
        module = permute_channels(dense, groups, orders)
        context.log.note(f"{len(orders)} of {len(groups)} groups of channels were permuted")
        kept = permute_kept(model.kept, groups, orders, module)
        return replace(
            state,
            model=replace(model, module=module, kept=kept, original=state.baseline.cost),
            certificate=certificate.combine(state.certificate),
            optimizer=permute_optimizer_state(state.optimizer, groups, orders, dense),
            sparse=measure_retained(module, self.sparsity, retained),
        )
