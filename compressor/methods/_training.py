"""Settings of the trainings that methods run before they remove anything."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import Field, StrictBool

from compressor.field_types import Count, FormerKey, FractionBelowOne, NonNegative, NonNegativeCount, Positive
from compressor.methods.base import SettingsGroup
from compressor.steps.train import Train
from compressor.training.early_stopping import EarlyStop
from compressor.training.penalty import Penalty, PenaltyTerm, StrengthSchedule
from compressor.training.penalty_terms import constant_strength, growth_iterations, l1_norm, stepwise_growth
from compressor.training.schedules import constant
from compressor.training.train_settings import OptimizerSettings


class EarlyTraining(SettingsGroup):
    """Training of the whole network before it is pruned, at a constant learning rate."""

    epochs: Count = Field(default=100, description="largest number of epochs before pruning")
    batch_size: Count = 256
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: Positive = 2e-3
    weight_decay: NonNegative = 5e-5
    clip: Positive | None = Field(default=10.0, description="largest norm of the gradient; null = no clipping")
    count_toward_retraining: Annotated[StrictBool, FormerKey("counted")] = Field(
        default=False,
        description="count these epochs as the first of retrain.epochs; the retraining runs the remaining ones",
    )

    def step(self, stop: EarlyStop | None, penalty: Penalty | None = None) -> Train:
        """Return the training step.

        Args:
            stop: Ends the training before its last epoch; None trains all epochs.
            penalty: Added to the loss.

        Returns:
            The step.
        """
        return Train(
            batch_size=self.batch_size,
            optimizer=OptimizerSettings(self.optimizer, self.lr, weight_decay=self.weight_decay),
            schedule=constant(),
            epochs=self.epochs,
            stop=stop,
            counts_toward_retraining=self.count_toward_retraining,
            stage="early training",
            penalty=penalty,
            clip=self.clip,
        )


class PenaltyTraining(SettingsGroup):
    """Training with a penalty on the weights: SGD at a constant learning rate."""

    batch_size: Count = 128
    lr: Positive = 1e-3
    momentum: FractionBelowOne = 0.9
    weight_decay: NonNegative = 5e-4

    @property
    def sgd(self) -> OptimizerSettings:
        """The optimizer."""
        return OptimizerSettings("sgd", self.lr, self.momentum, self.weight_decay)

    def step(self, penalty: Penalty, *, epochs: int | None, iterations: int | None = None) -> Train:
        """Return the training step.

        Args:
            penalty: Added to the loss.
            epochs: The length of the training in epochs.
            iterations: The length in iterations, used if `epochs` is None.

        Returns:
            The step.
        """
        return Train(
            batch_size=self.batch_size,
            optimizer=self.sgd,
            schedule=constant(),
            epochs=epochs or 0,
            iterations=None if epochs else iterations,
            stage="regularisation",
            penalty=penalty,
        )


class GrowingPenalty(SettingsGroup):
    """A penalty strength that grows in steps up to a ceiling and is then constant."""

    epochs: Count | None = Field(
        default=None,
        description="length of the training in epochs, to which growth and hold are scaled; null = the iterations "
        "below",
    )
    growth: Positive = Field(default=1e-4, description="what each update adds to the strength")
    update_interval: Annotated[Count, FormerKey("every")] = Field(default=10, description="iterations between updates")
    ceiling: Positive = Field(default=1.0, description="strength at which the growth ends")
    hold_iterations: Annotated[NonNegativeCount, FormerKey("hold")] = Field(
        default=10_000, description="iterations at the ceiling"
    )

    def growth_iterations(self, start: float = 0.0) -> int:
        """Return the number of iterations in which the strength grows from `start` to the ceiling."""
        return growth_iterations(self.growth, self.update_interval, self.ceiling, start)

    def strength(self, *, start: float = 0.0, scale: float = 1.0) -> StrengthSchedule:
        """Return the strength as a function of the iteration.

        Args:
            start: The strength at the beginning.
            scale: Factor on the strength.

        Returns:
            A function of the iteration and the number of iterations.
        """
        return partial(
            stepwise_growth,
            growth=self.growth,
            interval=self.update_interval,
            ceiling=self.ceiling,
            hold=self.hold_iterations,
            start=start,
            scale=scale,
        )

    def train(self, training: PenaltyTraining, penalty: Penalty, *, start: float = 0.0) -> Train:
        """Return the training in which the strength grows from `start` to the ceiling and is held there.

        Args:
            training: The optimizer and the batch size.
            penalty: The penalty whose strength grows.
            start: The strength at the beginning.

        Returns:
            The step.
        """
        iterations = self.growth_iterations(start) + self.hold_iterations
        return training.step(penalty, epochs=self.epochs, iterations=iterations)


def slimming_penalty(strength: float) -> Penalty:
    """Return `strength * sum |s|` over the scales s of all normalizations (network slimming, arXiv:1708.06519)."""
    return Penalty(
        "L1 on scales", (PenaltyTerm(l1_norm, partial(constant_strength, value=strength), applies_to="norm_scales"),)
    )
