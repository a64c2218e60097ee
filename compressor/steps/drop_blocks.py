"""Drop residual blocks, and prove that the others compute what they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from compressor.budget.layer_rules import freezes
from compressor.budget.target import PruningTarget
from compressor.errors import RecipeError, TargetNotReached, VerificationFailed, did_you_mean
from compressor.steps.base import Step

if TYPE_CHECKING:
    from compressor.graph.residual_blocks import ResidualBlock
    from compressor.steps.block_trials import BlockTrials
    from compressor.steps.context import Context
    from compressor.steps.state import BlockSelection, PruningState

PLACE = "prune.blocks.drop"
TRIALS = 6  # numbers of blocks that are compared at the target


@dataclass(frozen=True, slots=True)
class DropBlocks(Step):
    """Drop residual blocks that the recipe names, or those whose absence moves the answers least for what it saves.

    `auto` weighs blocks against channels: for several numbers of blocks the other channels are pruned to the target,
    the layers are reconstructed, and the answers are compared with the dense model's on held-out samples. Each of these
    trials selects channels anew, which takes long for a large model.
    """

    drop: Literal["auto"] | int | tuple[str, ...]  # that many, or those of these names
    target: PruningTarget
    then: tuple[Step, ...] = ()  # that prune channels after it
    most_macs: float | None = None  # of the model; a larger one keeps all blocks

    def __str__(self) -> str:
        return f"DropBlocks({', '.join(self.drop) if isinstance(self.drop, tuple) else self.drop})"

    @property
    def needs_data(self) -> bool:
        return not isinstance(self.drop, tuple)

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Choose the blocks and drop them.

        Args:
            state: The state before any channel is removed.
            context: Its training samples are used, their labels are not.

        Returns:
            The state with the model without these blocks, and its graph.

        Raises:
            RecipeError: The model has no such blocks.
            VerificationFailed: The model without the blocks computes something else.
        """
        from compressor.graph.residual_blocks import residual_blocks
        from compressor.steps.state import BlockSelection

        macs = state.baseline.cost.macs
        if self.most_macs is not None and macs > self.most_macs:
            why = f"trials take long for a model of {macs / 1e6:,.0f} million multiply-adds"
            context.log.note(f"no block is dropped: {why}; to try it, set prune.blocks={{drop: auto}}")
            return state
        blocks = residual_blocks(state.model.module, *state.example_inputs(2))
        if isinstance(self.drop, tuple):
            check_names(self.drop, blocks)
            return drop_selected(state, BlockSelection(blocks, self.drop)).with_graph()
        free = [block for block in blocks if not freezes(block.name, self.target.rules)]
        if self.drop != "auto" and self.drop > len(free):
            problem = f"it is {self.drop}, but only {len(free)} blocks of the model can be dropped"
            raise RecipeError("recipe-does-not-fit-the-model/too-few-blocks", PLACE, problem, _allowed(free))
        if not free:
            context.log.note("no block is dropped: the model has no residual block that can be dropped")
            return state
        choice = context.decision("dropped blocks", partial(self._choose, state, context, blocks, free))
        by_count = {int(count): value for count, value in choice["by_count"].items()}
        selection = BlockSelection(blocks, tuple(choice["dropped"]), tuple(choice["divergence"]), by_count)
        if not selection.dropped:
            context.log.note(f"no block is dropped: the answers are nearest to the dense model's with all {len(free)}")
        return drop_selected(state, selection).with_graph()

    def _choose(
        self, state: PruningState, context: Context, blocks: Sequence[ResidualBlock], free: Sequence[ResidualBlock]
    ) -> dict[str, Any]:
        """The blocks to drop, in the order of their choice, as JSON. The device is held for all trials."""
        from compressor.steps.block_trials import BlockTrials
        from compressor.steps.latency_probe import hold_device

        with hold_device(context.latency_probe) as probe:
            trials = BlockTrials(state, replace(context, latency_probe=probe), self.target, free)
            return self._compare(trials, state, context, blocks)

    def _compare(
        self, trials: BlockTrials, state: PruningState, context: Context, blocks: Sequence[ResidualBlock]
    ) -> dict[str, Any]:
        """Order the blocks, and compare numbers of them where none is given."""
        from compressor.budget.block_order import best_count, order_of_blocks
        from compressor.steps.state import BlockSelection

        def enough(names: Sequence[str]) -> bool:
            return trials.reaches_target(names) if self.drop == "auto" else len(names) == self.drop

        drops = order_of_blocks(trials.savings, trials.divergence, enough)
        names, by_count = [drop.name for drop in drops], dict[int, float]()
        if self.drop == "auto":
            progress, done = context.progress("numbers of blocks"), iter(range(TRIALS))
            most = min(TRIALS, len(names) + 1)

            def at_target(count: int) -> float | None:
                progress(next(done), most)
                try:
                    smaller = drop_selected(state, BlockSelection(tuple(blocks), tuple(names[:count])))
                    return trials.divergence_after(smaller, self.then)
                except TargetNotReached:
                    return None

            by_count = best_count(len(names), at_target, TRIALS)
            progress(most, most)
            # Where none reaches the target, the step that prunes channels says why.
            names = names[: min(by_count, key=by_count.__getitem__)] if by_count else []
        divergence = [drop.divergence for drop in drops[: len(names)]]
        return {"dropped": names, "divergence": divergence, "by_count": by_count}


def drop_selected(state: PruningState, selection: BlockSelection) -> PruningState:
    """Drop the blocks of a selection, and prove it.

    Args:
        state: The state before.
        selection: The blocks; none changes nothing but the record.

    Returns:
        The state without the blocks.

    Raises:
        VerificationFailed: The model without the blocks computes something else, or does not run.
    """
    from compressor.execution.dropped_blocks import is_inside, without_blocks
    from compressor.surgery.certificate import certify_dropped_blocks

    names, model = selection.dropped, state.model
    if not names:
        return replace(state, blocks=selection)
    slim = without_blocks(model.module, names)
    dropped = [block for block in selection.candidates if block.name in names]
    certificate = certify_dropped_blocks(model.module, slim, dropped, *state.example_inputs(2))
    if not certificate.ok:
        problem = f"without {', '.join(names)} it differs from the dense model by {certificate.max_rel_error:.1e}"
        hint = f"report this model; leave these blocks out of {PLACE}"
        raise VerificationFailed("certificate/dropped-blocks-differ", model.name, problem, hint)
    kept = {name: dims for name, dims in model.kept.items() if not is_inside(name, names)}
    all_dropped = (*model.dropped, *names)
    return replace(
        state,
        model=replace(model, module=slim, kept=kept, dropped=all_dropped, original=state.baseline.cost),
        blocks=selection,
        graph=None,
        groups=(),
        certificate=certificate.combine(state.certificate),
        optimizer={name: value for name, value in state.optimizer.items() if not is_inside(name, names)},
        masks={name: mask for name, mask in state.masks.items() if not is_inside(name, names)},
    )


def check_names(names: Sequence[str], blocks: Sequence[ResidualBlock]) -> None:
    """Check that every name is a block that can be dropped.

    Args:
        names: The names in the recipe.
        blocks: The blocks of the model.

    Raises:
        RecipeError: Some name is none; the error lists the names that are allowed.
    """
    allowed = [block.name for block in blocks]
    unknown = [name for name in names if name not in allowed]
    if unknown:
        problem = f"{', '.join(unknown)}: no residual block of the model that can be dropped"
        hint = f"{did_you_mean(unknown[0], allowed)}{_allowed(blocks)}"
        raise RecipeError("recipe-does-not-fit-the-model/unknown-block", PLACE, problem, hint)


def _allowed(blocks: Sequence[ResidualBlock]) -> str:
    return f"allowed: {', '.join(block.name for block in blocks) or 'no block at all'}"
