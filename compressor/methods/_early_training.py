"""Settings that methods have in common which train the whole network before they prune it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import AllowInfNan, BaseModel, Field, Strict

from compressor.budget.target import PruningTarget, pruned_channel_share, pruned_weight_share
from compressor.errors import RecipeError
from compressor.methods._regularization import Count, NotNegative, Positive, Truth
from compressor.steps.train import Train
from compressor.training.early_stopping import EarlyStop
from compressor.training.penalty import Penalty
from compressor.training.schedules import constant
from compressor.training.settings import OptimizerSettings
from compressor.training.stopping_rules import channel_patience, lazy_regime, lazy_regime_squared, weight_patience

OpenShare = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0, lt=1)]


class Pretraining(BaseModel):
    """How the whole network trains before anything goes: at one learning rate, and not longer than `epochs`."""

    epochs: Count = Field(default=100, description="of training before anything goes, at most")
    batch_size: Count = 256
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: Positive = 2e-3
    weight_decay: NotNegative = 5e-5
    clip: Positive | None = Field(default=10.0, description="largest norm of all gradients together; null = any")
    counted: Truth = Field(
        default=False, description="take these epochs off retrain.epochs, so that both together last as long as it says"
    )

    def pretrain(self, stop: EarlyStop | None, penalty: Penalty | None = None) -> Train:
        """Until the rule is done."""
        return Train(
            batch_size=self.batch_size,
            optimizer=OptimizerSettings(self.optimizer, self.lr, weight_decay=self.weight_decay),
            schedule=constant(),
            epochs=self.epochs,
            stop=stop,
            counts_toward_retraining=self.counted,
            stage="early training",
            penalty=penalty,
            clip=self.clip,
        )


class LazyRegime(Pretraining):
    """Until the weights' way from where they began hardly grows any more: the regime in which the gradient flow, and
    what is measured by it, stays as it is."""

    name: ClassVar[str]

    when: Literal["released", "squared", "fixed"] = Field(
        default="released",
        description="released = distances from the weights after epoch 1, as in the authors' code; squared = squared "
        "distances from the initial weights, as in their slides; fixed = after all `epochs`",
    )
    patience: OpenShare | None = Field(
        default=None,
        description="factor on the first change of the distance, below which it counts as settled; "
        "null = what the target says, the more goes the longer it takes: 1 - r for a share r of weights, 0.9 - r of "
        "channels; where that is below (1 - r) / 10, from 8/9 on, the latter: as released nothing would be settled",
    )

    def until_channels_can_go(self, selection: PruningTarget) -> Train:
        """Raises RecipeError where neither the target nor `patience` says how settled the weights must be."""
        removed = pruned_channel_share(selection)
        return self._until(None if removed is None else channel_patience(removed))

    def until_weights_can_go(self, selection: PruningTarget) -> Train:
        """Likewise, for single weights."""
        removed = pruned_weight_share(selection)
        return self._until(None if removed is None else weight_patience(removed))

    def _until(self, asked: float | None) -> Train:
        if self.when == "fixed":
            return self.pretrain(None)
        factor = asked if self.patience is None else self.patience
        if factor is None:
            problem = "it is null, and prune.target has no share to derive it from"
            raise RecipeError(
                "recipe/not-derivable-from-target", f"prune.{self.name}.patience", problem, "set a number, such as 0.05"
            )
        rule = lazy_regime if self.when == "released" else lazy_regime_squared
        return self.pretrain(EarlyStop("lazy regime", partial(rule, factor=factor)))
