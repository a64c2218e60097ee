"""What methods train before they prune, as their settings say."""

from __future__ import annotations

import pickle
from functools import partial
from typing import ClassVar

import pytest
from failures import raises_error
from pydantic import BaseModel

from compressor.budget.target import PruningTarget
from compressor.errors import RecipeError
from compressor.methods._early_training import LazyRegime
from compressor.steps.train import Train
from compressor.training.settings import OptimizerSettings
from compressor.training.stopping_rules import lazy_regime, lazy_regime_squared

NODES = PruningTarget(nodes=0.34)


class Settings(LazyRegime, BaseModel):
    name: ClassVar[str] = "some"


def factor(train: Train) -> float:
    assert train.stop is not None
    assert isinstance(train.stop.rule, partial)
    return float(train.stop.rule.keywords["factor"])


def test_as_released() -> None:
    train = Settings().until_channels_can_go(NODES)
    assert train.optimizer == OptimizerSettings("adam", 2e-3, weight_decay=5e-5)
    assert (train.epochs, train.batch_size, train.clip, train.counts_toward_retraining) == (100, 256, 10.0, False)
    assert [train.schedule(done) for done in (0, 50, 99.9)] == [1.0] * 3
    assert factor(train) == pytest.approx(0.24)
    assert str(train) == "Train(until lazy regime, 100 epochs at most, adam)"
    assert pickle.loads(pickle.dumps(train.stop)) is not None


def test_the_more_goes_the_more_settled_the_weights_must_be() -> None:
    masked = Settings().until_weights_can_go(PruningTarget(weights=0.05))
    assert factor(masked) == pytest.approx(0.05)
    assert factor(Settings(patience=0.3).until_weights_can_go(PruningTarget(weights=0.05))) == 0.3
    assert factor(Settings(patience=0.3).until_channels_can_go(PruningTarget(latency_ms=2.0))) == 0.3
    with raises_error(RecipeError, "recipe/not-derivable-from-target", "prune.some.patience"):
        Settings().until_channels_can_go(PruningTarget(latency_ms=2.0))


def test_other_rules() -> None:
    squared = Settings(when="squared").until_channels_can_go(NODES).stop
    assert squared is not None
    assert squared.rule.func is lazy_regime_squared
    released = Settings().until_channels_can_go(NODES).stop
    assert released is not None
    assert released.rule.func is lazy_regime
    fixed = Settings(when="fixed", epochs=7, counted=True).until_channels_can_go(PruningTarget(latency_ms=2.0))
    assert (fixed.stop, fixed.epochs, fixed.counts_toward_retraining) == (None, 7, True)
