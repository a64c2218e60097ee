"""Train the network, with what must hold meanwhile: masks, penalties, and a part of the parameters frozen."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from compressor.core import RETRAINING, TrainingHistory
from compressor.errors import VerificationFailed
from compressor.steps.base import Step
from compressor.steps.held_out import divergences_on, held_out_divergences
from compressor.training.penalty import ConstraintFactory, Penalty
from compressor.training.train_settings import Schedule, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from compressor.core import Data, PrunedEntries
    from compressor.sparsity.sr_ste import SRSTEState
    from compressor.steps.context import Context
    from compressor.steps.state import PruningState
    from compressor.training.loop import TrainResult

MIN_POINTS = 200  # of a learning-rate curve, so that a short training has a smooth one too


@dataclass(frozen=True, slots=True)
class Train(TrainSettings, Step):
    """Train. The optimizer continues with its state from an earlier training, sliced where channels were removed."""

    needs_data: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    in_plan: ClassVar[bool] = False

    trainable: Literal["all", "scales"] = "all"  # scales = scales and shifts of normalizations only
    evaluate: bool = True  # measure the test metric after it
    counts_toward_retraining: bool = False  # its epochs are the first ones of the retraining
    penalty: Penalty | None = None

    def __str__(self) -> str:
        epochs = f"{self.epochs} epoch{'s' * (self.epochs != 1)}"
        length = epochs if self.iterations is None else f"{self.iterations} iterations"
        extras = {"distilled": self.distill, "mixup": self.mixup, "cutmix": self.cutmix, "EMA": self.ema}
        parts = [
            *([length] if self.stop is None else [f"until {self.stop.name}, {length} at most"]),
            self.optimizer.name,
            *(["scales only"] if self.trainable == "scales" else []),
            *(name for name, setting in extras.items() if setting),
            *([self.penalty.name] if self.penalty else []),
        ]
        return f"Train({', '.join(parts)})"

    @property
    def evaluate_as(self) -> str | None:
        return f"after {self.stage}" if self.evaluate else None

    @property
    def compares_answers(self) -> bool:
        # A training before the removal moves the model away on purpose.
        return self.stage == RETRAINING and self.distill is not None and not self.distill.labels

    @property
    def hint_near_chance(self) -> str | None:
        if self.stage != RETRAINING:
            return None
        rate = f"{self.optimizer.key}={self.optimizer.lr:g}"
        return f"{rate} may be too large, the epochs too few, or too much was removed"

    def with_lr_key(self, key: str) -> Train:
        """The training whose hints name this key of the recipe for its learning rate."""
        return replace(self, optimizer=replace(self.optimizer, key=key))

    def segment(self, first: int, last: int) -> Train:
        """Cut a part out of the training.

        Args:
            first: Epoch to begin with, from 0.
            last: Epoch to end before.

        Returns:
            A training of these epochs, with the learning rates and batches that they have in this one.
        """
        schedule = self.schedule
        shifted: Schedule = lambda done: schedule(first + done)  # noqa: E731
        return replace(self, epochs=last - first, start_epoch=self.start_epoch + first, schedule=shifted)

    def stretched(self, epochs: int) -> Train:
        """The same course of learning rates over so many more epochs."""
        length, schedule = self.epochs + epochs, self.schedule
        return replace(self, epochs=length, schedule=lambda done: schedule(done * self.epochs / length))

    def adapted(self, state: PruningState, context: Context) -> Train:
        """Stretch the retraining by the extra epochs, and leave out those that an earlier training has done.

        Args:
            state: It says how many.
            context: Its log gets a warning where no epoch would be left.

        Returns:
            The training as it will run.
        """
        if self.stage != RETRAINING:
            return self
        training = self.stretched(state.extra_epochs) if state.extra_epochs else self
        if not state.epochs_done:
            return training
        if state.epochs_done >= training.epochs:
            spent = f"earlier trainings took {state.epochs_done} epochs, and {training.epochs} were for all"
            context.log.warning(f"{spent}; {self.stage} runs for one epoch all the same")
        return training.segment(min(state.epochs_done, training.epochs - 1), training.epochs)

    def learning_rates(self) -> tuple[tuple[float, float], ...]:
        """Pairs (epochs done, learning rate); the last is what holds right before the end."""
        if not self.epochs:
            return ()
        per_epoch = next(parts for parts in (1, 10, 20, 50, 100, MIN_POINTS) if parts * self.epochs >= MIN_POINTS)
        done = [index / per_epoch for index in range(self.epochs * per_epoch)]
        rates = [(epoch, self.lr_at(epoch)) for epoch in done]
        last = self.lr_at(math.nextafter(self.epochs, 0))
        return (*rates, (float(self.epochs), last))

    def run(self, state: PruningState, context: Context) -> PruningState:
        """Train a copy of the model.

        Args:
            state: What the steps before it left.
            context: Data, seed, log and checkpoints.

        Returns:
            The state with the trained model, the optimizer's state and the history of the training. Where it was
            to imitate the dense model's answers and moved away from them, the model is the one before it.

        Raises:
            VerificationFailed: The training diverged, or a masked weight is not zero after it.
            Temporary: Memory ran out.
        """
        from compressor.diagnostics.stable_lr import stable_learning_rate
        from compressor.execution.copies import copy_module

        module = copy_module(state.model.module)
        data = context.data_with_holdout if self.compares_answers else context.training_data
        # Each training has a checkpoint of its own, named by the index of its step and kept until the run ends.
        checkpoint = context.checkpoints.of_training(len(state.steps), self.optimizer.lr, self.optimizer.key)
        holds_zero = self.penalty is not None and self.penalty.zero_from is not None
        zeroed = holds_zero and _removal_is_lossless(state, context)
        constraints = self._constraints(state)
        stable_lr = stable_learning_rate(module, data, self, context.seed) if self.stage == RETRAINING else None
        if stable_lr is not None:
            rate = {"lr": stable_lr.lr, "curvature": stable_lr.curvature, "images": stable_lr.images}
            context.log("stable_rate", rate)
        with _regrowing(module, state.regrow, state.masks):
            try:
                result = context.train(
                    module,
                    data,
                    self,
                    seed=context.seed,
                    emit=context.log,
                    checkpoint=checkpoint,
                    teacher=state.baseline.module if self.distill else None,
                    constraints=constraints,
                    optimizer_state=state.optimizer,
                )
            except VerificationFailed:
                checkpoint.mark_diverged()
                raise
        optimizer = result.optimizer_state
        if self.compares_answers and not self._is_closer(module, state, data, context):
            module, optimizer = copy_module(state.model.module), state.optimizer
        if self.stop is not None:
            context.log.note(self._stop_message(self.stop.name, result))
        epochs_done = len(result.records) if self.counts_toward_retraining else 0
        return replace(
            state.with_module(module),
            optimizer=optimizer,
            masks=_masks_after_training(module, state.masks, state.regrow),
            regrow=None,
            zeroed=zeroed,
            epochs_done=state.epochs_done + epochs_done,
            trainings=(*state.trainings, TrainingHistory(self.stage, result.records, result.cost, stable_lr)),
        )

    def _is_closer(self, module: nn.Module, state: PruningState, data: Data, context: Context) -> bool:
        """Whether training brought the answers nearer to the dense model's, on held-out samples; warns where not."""
        modules = (state.model.module, module)
        if data.has_holdout:
            before, after = held_out_divergences(state, modules, data)
        else:  # a single sample, which cannot be held out: it shows at least answers that moved far away
            batches = [inputs for inputs, _ in data.sample_batches(1, images=1)]
            before, after = divergences_on(batches, state, modules, data)
        if math.isfinite(after) and after <= before:
            return True
        problem = f"{self.stage} moved the model away from the dense one's answers ({before:.3g} to {after:.3g})"
        rate = f"{self.optimizer.key}={self.optimizer.lr:g}"
        context.log.warning(
            f"{problem}: the weights from before it are kept. Set a lower rate than {rate}, or more epochs"
        )
        return False

    def _constraints(self, state: PruningState) -> Sequence[ConstraintFactory]:
        from compressor.training.constraints import FixedMaskConstraint, PenaltyConstraint, ScalesOnly

        constraints: list[ConstraintFactory] = []
        if self.penalty:
            constraints.append(partial(PenaltyConstraint, penalty=self.penalty, leaving=_entries_to_prune(state)))
        if self.trainable == "scales":
            constraints.append(ScalesOnly)
        if state.masks and not state.regrow:
            constraints.append(partial(FixedMaskConstraint, masks=state.masks))
        return constraints

    def _stop_message(self, rule: str, result: TrainResult) -> str:
        last, epochs = result.records[-1], len(result.records)
        values = [f"{last[key]:.3g}" for key in ("stop_value", "stop_limit") if key in last]
        compared = f" ({' against '.join(values)})" if values else ""
        if result.stopped:
            return f"{self.stage} ended after epoch {epochs}: {rule} was reached{compared}"
        return f"{self.stage} ended after epoch {epochs}, its last: {rule} was not reached{compared}"


def _entries_to_prune(state: PruningState) -> tuple[tuple[PrunedEntries, ...], ...]:
    """What the plan will remove, group by group; nothing where no plan is pending."""
    from compressor.surgery.removal import pruned_entries

    plan = state.plan
    if plan is None:
        return ()
    groups = (group for group in state.groups if group.name in plan.kept)
    return tuple(pruned_entries((group,), plan, state.model.module) for group in groups)


def _removal_is_lossless(state: PruningState, context: Context) -> bool:
    """Whether channels have no effect once they are zero; warns where they have."""
    from compressor.surgery.certificate import is_lossless_when_zeroed

    inputs = state.example_inputs(2)
    if is_lossless_when_zeroed(state.model.module, state.current_graph, state.selected, *inputs):
        return True
    problem = "zero channels still matter, behind a sigmoid or in a norm that mixes channels"
    context.log.warning(f"removal will not be lossless: {problem}")
    return False


def _regrowing(
    module: nn.Module, regrow: SRSTEState | None, masks: Mapping[str, Tensor]
) -> AbstractContextManager[None]:
    from compressor.sparsity.sr_ste import train_with_sr_ste

    return nullcontext() if regrow is None else train_with_sr_ste(module, regrow, masks)


def _masks_after_training(
    module: nn.Module, masks: Mapping[str, Tensor], regrow: SRSTEState | None
) -> Mapping[str, Tensor]:
    """The masks that hold now: new ones where the training was free to change them. Raises VerificationFailed."""
    from compressor.sparsity.nm_masks import magnitude_mask

    values = {name: module.get_parameter(name).detach() for name in masks}
    if regrow is not None:
        masks = {name: magnitude_mask(weight, regrow.pattern) for name, weight in values.items()}
    revived = [name for name, weight in values.items() if bool(weight[~masks[name]].any())]
    if revived:
        problem = f"{len(revived)} of {len(values)} masked tensors have values where zeros were"
        raise VerificationFailed("masks/zeros-revived", revived[0], problem, "report this model")
    return masks
