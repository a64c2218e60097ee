"""The methods that train before they remove: published lengths, and what their penalties are made of."""

from __future__ import annotations

import pickle

import pytest

from compressor.budget.target import PruningTarget
from compressor.methods import Method, methods
from compressor.methods._training import GrowingPenalty
from compressor.methods.greg import GReg1, GReg2
from compressor.methods.l1 import Scratch
from compressor.methods.orthogonal import KernOrthL1, L1KernOrth, L1OrthConv, L1OrthP, OrthConvL1
from compressor.methods.ssl import SSL
from compressor.methods.tpp import TPP
from compressor.recipe import read_recipe
from compressor.steps.base import Step
from compressor.steps.orthogonalize import Orthogonalize
from compressor.steps.reinitialize import Reinitialize
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels
from compressor.steps.train import Train
from compressor.training.penalty import Penalty
from compressor.training.penalty_terms import (
    convolution_orthogonality,
    decay,
    decay_kept,
    decay_pruned,
    gram_mean,
    gram_sum,
    kernel_orthogonality,
)

TARGET = PruningTarget(ratio=0.5)


def trainings(steps: tuple[Step, ...]) -> list[Train]:
    return [step for step in steps if isinstance(step, Train)]


def penalty_of(step: Train) -> Penalty:
    assert step.penalty is not None
    return step.penalty


def test_tpp_as_released() -> None:
    """110,000 iterations for CIFAR and 90,000 for ImageNet, at a constant 1e-3."""
    steps = TPP().steps(TARGET)
    assert [type(step) for step in steps] == [SelectChannels, Train, RemoveChannels]
    (train,) = trainings(steps)
    assert (train.iterations, train.batch_size, train.optimizer.lr, train.optimizer.momentum) == (
        110_000,
        128,
        1e-3,
        0.9,
    )
    assert train.schedule(200.0) == 1.0
    assert (
        trainings(TPP(growing=GrowingPenalty(update_interval=5, hold_iterations=40_000)).steps(TARGET))[0].iterations
        == 90_000
    )
    penalty = penalty_of(train)
    assert [(term.gradient, term.applies_to) for term in penalty.terms] == [
        (gram_mean, "pruned_filters"), (decay_pruned, "pruned_filters"), (decay_pruned, "norm_params"),
    ]  # fmt: skip
    assert [term.strength(50_000, 110_000) for term in penalty.terms] == pytest.approx([500.0, 0.5, 0.5])
    assert penalty.zero_from is not None
    assert penalty.zero_from(0, 27, 110_000) == 100_100


def test_tpp_by_its_formula() -> None:
    """1/2 of the squared norm instead of 1000 / N^2, without the term on the weights."""
    penalty = TPP(gram="sum", decay=False).penalty()
    assert [(term.gradient, term.applies_to) for term in penalty.terms] == [
        (gram_sum, "pruned_filters"),
        (decay_pruned, "norm_params"),
    ]
    assert [term.strength(50_000, 110_000) for term in penalty.terms] == pytest.approx([0.5, 0.5])
    assert not TPP(gram_weight=0.0, decay=False, norms=False).penalty().terms


def test_epochs_say_the_whole_length() -> None:
    (train,) = trainings(TPP(growing=GrowingPenalty(epochs=3)).steps(TARGET))
    assert (train.epochs, train.iterations) == (3, None)
    strength = penalty_of(train).terms[1].strength
    assert (strength(0, 1100), strength(500, 1100), strength(1000, 1100)) == pytest.approx((0.0, 0.5, 1.0))


def test_greg() -> None:
    (push,) = trainings(GReg1().steps(TARGET))
    assert push.iterations == 110_000
    assert [term.gradient for term in penalty_of(push).terms] == [decay_pruned]
    steps = GReg2().steps(TARGET)
    assert [type(step) for step in steps] == [SelectChannels, Train, SelectChannels, Train, RemoveChannels]
    pick, push = trainings(steps)
    assert (pick.iterations, push.iterations) == (10_000, 109_000)
    assert [term.gradient for term in penalty_of(pick).terms] == [decay]
    assert penalty_of(pick).terms[0].strength(9_999, 10_000) == pytest.approx(0.01, rel=2e-3)
    pruned, kept = penalty_of(push).terms
    assert (pruned.gradient, kept.gradient) == (decay_pruned, decay_kept)
    assert [pruned.strength(iteration, 109_000) for iteration in (0, 10, 99_000)] == pytest.approx([0.01, 0.0101, 1.0])
    assert kept.strength(77, 109_000) == -1e-4


@pytest.mark.parametrize(("method", "spare"), [(KernOrthL1(), 0), (OrthConvL1(), 1)])
def test_orthogonality_before_the_choice(method: KernOrthL1 | OrthConvL1, spare: int) -> None:
    steps = method.steps(TARGET)
    assert [type(step) for step in steps] == [Train, SelectChannels, RemoveChannels]
    assert method.retraining() is None
    (term,) = penalty_of(trainings(steps)[0]).terms
    assert (term.applies_to, term.skip_first, term.strength(3, 10)) == ("all_layers", spare, 0.1)


def test_orthogonality_after_removal() -> None:
    for method, pull in ((L1KernOrth(), kernel_orthogonality), (L1OrthConv(), convolution_orthogonality)):
        assert [type(step) for step in method.steps(TARGET)] == [SelectChannels, RemoveChannels]
        assert [term.gradient for term in method.retraining().terms] == [pull]
    assert L1OrthP().steps(TARGET)[-1] == Orthogonalize(2**0.5)


def test_scratch_costs_as_much_as_both_trainings() -> None:
    """K1 F1 / F2 + K2: 90, 20 and 2.31 give 227.9 epochs."""
    step = Scratch(dense_epochs=90, match="flops").steps(TARGET)[-1]
    assert isinstance(step, Reinitialize)
    assert 20 + step.extra_epochs(2.31) == round(227.9)
    assert Reinitialize(90, flops=False).extra_epochs(2.31) == 90


def test_a_longer_training_follows_the_same_course() -> None:
    (train,) = trainings(SSL(epochs=10).steps(TARGET))
    longer = Train(32, train.optimizer, lambda done: 0.1 if done >= 5 else 1.0, epochs=10).stretched(20)
    assert longer.epochs == 30
    assert [longer.schedule(epoch) for epoch in (0, 14.9, 15.1, 29)] == [1.0, 1.0, 0.1, 0.1]


def target_of(method: Method) -> PruningTarget:
    return PruningTarget(weights=0.5) if method.unstructured else TARGET


@pytest.mark.parametrize("name", methods())
def test_penalties_can_be_handed_to_other_processes(name: str) -> None:
    method = methods()[name]()
    for penalty in [method.retraining(), *(step.penalty for step in trainings(method.steps(target_of(method))))]:
        again = pickle.loads(pickle.dumps(penalty))
        if penalty is not None:
            assert [term.strength(3, 7) for term in again.terms] == [term.strength(3, 7) for term in penalty.terms]


@pytest.mark.parametrize(
    ("name", "needs_data"),
    [
        ("l1", False),
        ("2of4", False),
        ("synflow", False),
        ("scratch", True),
        ("tpp", True),
        ("snip", True),
        ("imp", True),
    ],
)
def test_a_recipe_needs_data_where_its_steps_do(name: str, needs_data: bool) -> None:
    assert read_recipe(name, ["data=null", "reconstruct=off"]).needs_data == needs_data
