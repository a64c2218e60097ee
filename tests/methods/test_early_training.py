"""The early training: its steps, and when it ends."""

from __future__ import annotations

import pickle
from functools import partial

import pytest

from compressor.budget.target import PruningTarget
from compressor.errors import RecipeError
from compressor.methods._training import EarlyTraining
from compressor.methods.crop import EarlyCropS, EarlyCropU, LazyRegime
from compressor.steps.train import Train
from compressor.training.early_stopping import EarlyStop
from compressor.training.stopping_rules import lazy_regime, lazy_regime_squared
from compressor.training.train_settings import OptimizerSettings

NODES = PruningTarget(nodes=0.34)
MILLISECONDS = PruningTarget(latency_ms=2.0)


def training(method: EarlyCropS | EarlyCropU, target: PruningTarget) -> Train:
    (step,) = (step for step in method.steps(target) if isinstance(step, Train))
    return step


def rule(step: Train) -> partial[object]:
    assert isinstance(step.stop, EarlyStop)
    assert isinstance(step.stop.rule, partial)
    return step.stop.rule


def test_as_released() -> None:
    step = training(EarlyCropS(), NODES)
    assert step.optimizer == OptimizerSettings("adam", 2e-3, weight_decay=5e-5)
    assert (step.epochs, step.batch_size, step.clip, step.counts_toward_retraining) == (100, 256, 10.0, False)
    assert [step.schedule(done) for done in (0, 50, 99.9)] == [1.0] * 3
    assert str(step) == "Train(until lazy regime, 100 epochs at most, adam)"
    assert rule(step).func is lazy_regime
    assert rule(step).keywords == {"factor": pytest.approx(0.24)}
    assert pickle.loads(pickle.dumps(step.stop)) is not None


def test_the_factor_follows_from_the_target_unless_it_is_given() -> None:
    given = LazyRegime(patience=0.3)
    for method, target, factor in (
        (EarlyCropU(), PruningTarget(weights=0.05), 0.05),
        (EarlyCropU(stop=given), PruningTarget(weights=0.05), 0.3),
        (EarlyCropS(stop=given), MILLISECONDS, 0.3),
    ):
        assert rule(training(method, target)).keywords == {"factor": pytest.approx(factor)}
    with pytest.raises(RecipeError) as caught:
        EarlyCropS().steps(MILLISECONDS)
    assert "prune.earlycrop-s.patience" in str(caught.value)


def test_other_rules() -> None:
    slides = training(EarlyCropS(stop=LazyRegime(rule="slides")), NODES)
    assert rule(slides).func is lazy_regime_squared
    early = EarlyTraining(epochs=7, count_toward_retraining=True)
    fixed = training(EarlyCropS(training=early, stop=LazyRegime(rule="fixed_epochs")), MILLISECONDS)
    assert (fixed.stop, fixed.epochs, fixed.counts_toward_retraining) == (None, 7, True)
