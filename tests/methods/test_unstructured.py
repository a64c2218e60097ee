"""Methods that mask single weights, against cases computed by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from compressor.budget.rounds import exponential_remaining, halving_remaining, linear_remaining
from compressor.budget.target import PruningTarget
from compressor.core import LoadedModel, ModelInput, ModelSpec
from compressor.criteria.gradient import GradientCriterion, gradient_scores
from compressor.criteria.gradient_formulas import crop, snip
from compressor.criteria.synaptic_flow import SynapticFlow
from compressor.methods import methods
from compressor.methods._rounds import PruningRounds
from compressor.methods._shared import GlobalMask, ScoringImages
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.mask_unstructured import MaskUnstructured
from compressor.steps.reinitialize import Reinitialize
from compressor.steps.run import initial_state
from compressor.steps.train import Train
from compressor.training.training_checkpoint import Checkpoints

TWENTIETH = PruningTarget(weights=0.05)


@pytest.mark.parametrize(("shares", "expected"), [
    (exponential_remaining(0.01, 5), (0.398107, 0.158489, 0.063096, 0.025119, 0.01)),
    (exponential_remaining(0.1, 4), (0.562341, 0.316228, 0.177828, 0.1)),
    (tuple(exponential_remaining(0.01, 60)[place] for place in (0, 9, 29, 59)), (0.926119, 0.464159, 0.1, 0.01)),
    (linear_remaining(0.1, 4), (0.775, 0.55, 0.325, 0.1)),
    (halving_remaining(0.05, 7), (0.5, 0.275, 0.1625, 0.10625, 0.078125, 0.0640625, 0.05)),
    (halving_remaining(0.02, 7), (0.5, 0.26, 0.14, 0.08, 0.05, 0.035, 0.02)),
])  # fmt: skip
def test_courses_of_what_remains_as_published(shares: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert shares == pytest.approx(expected, abs=1e-6)
    assert shares[-1] == expected[-1], "the last is what was asked for, to the last bit"


class Rows:
    """One batch, the same in every epoch, with the loss |output - targets|^2 / 2 or the cross entropy."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self._batch = inputs, targets
        classes = targets.dtype == torch.long
        self.num_classes = 3 if classes else None
        self.task = SimpleNamespace(loss=self._entropy if classes else self._square)

    def train_batches(self, size: int, *, epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield self._batch

    @staticmethod
    def _square(output: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        return 0.5 * (output[:, 0] - targets).square().sum()

    @staticmethod
    def _entropy(output: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        return nn.functional.cross_entropy(output, targets)


@pytest.mark.parametrize(("keep", "nested", "kept"), [
    ((0.5,), False, [0, 3]), ((0.5,), True, [0, 3]), ((0.5, 0.25), False, [2]), ((0.5, 0.25), True, [3]),
])  # fmt: skip
def test_force_brings_back_what_iterative_snip_cannot(
    keep: tuple[float, ...], nested: bool, kept: list[int], tmp_path: Path
) -> None:
    """|A w - y|^2 / 2, 2 of 4 weights and then 1. Round 1: |w g| = (10, 5, 3, 14). Round 2, at (2, 0, 0, -2): g = (7,
    7, -13, -17), so that the third is worth 39 by its original value, and nothing where it stays masked."""
    module = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[2.0, 1, 3, -2]]))
    context = Context(None, 0, RunLog(), Checkpoints(tmp_path, "test"))
    state = initial_state(LoadedModel(module, ModelSpec("it", (ModelInput((4,)),)), "it"), context)
    data = Rows(torch.tensor([[1.0, 1, -1, -2], [0, 0, 2, 1]]), torch.tensor([-1.0, 1]))
    step = MaskUnstructured(GradientCriterion("it", snip), keep, nested)
    done = step.run(state, replace(context, data=data))  # type: ignore[arg-type]
    assert done.masks["weight"][0].nonzero().flatten().tolist() == kept
    left = [value for value in done.model.module.get_parameter("weight")[0].tolist() if value]
    assert left == [[2.0, 1, 3, -2][place] for place in kept], "what comes back has its original value"


@pytest.mark.parametrize(("loss", "expected"), [("task", (-0.9100, 0.2447, 0.6652)), ("logit", (-1.0, 0.0, 0.0))])
def test_gradients_of_cross_entropy_and_of_raw_answers(loss: str, expected: tuple[float, ...]) -> None:
    """Answers (1, 2, 3) where the first class is right."""
    module = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0], [2], [3]]))
    saliency = GradientCriterion("it", lambda w, g, h: g, loss=loss)  # type: ignore[arg-type]
    data = Rows(torch.ones(1, 1), torch.tensor([0]))
    scores = gradient_scores(module, saliency, data, 0)["weight"]  # type: ignore[arg-type]
    assert scores.flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_masked_weights_have_no_gradient_in_what_the_hessian_is_multiplied_with() -> None:
    """|A w|^2 / 2 with A A = [[2, 1], [1, 3]] and w = (1, 0), the second masked: g = (2, 1), H (2, 0) = (4, 2)."""
    gram = torch.tensor([[2.0, 1], [1, 3]])
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 0]]))
    data = Rows(torch.linalg.cholesky(gram).mT.contiguous(), torch.zeros(2))
    saliency = GradientCriterion("it", lambda w, g, h: h, order=2)
    masks = {"weight": torch.tensor([[True, False]])}
    for given, expected in ((masks, [4, 2]), ({}, [5, 5])):
        scores = gradient_scores(module, saliency, data, 0, masks=given)["weight"]  # type: ignore[arg-type]
        assert scores.flatten().tolist() == pytest.approx(expected, abs=1e-5)


def masks_of(name: str, **settings: object) -> MaskUnstructured:
    (step,) = (step for step in methods()[name](**settings).steps(TWENTIETH) if isinstance(step, MaskUnstructured))
    return step


def test_every_method_masks_as_its_paper_does() -> None:
    steps = {name: masks_of(name) for name, method in methods().items() if method.unstructured and name not in TICKETS}
    assert {name for name, step in steps.items() if not step.nested} == {"force"}
    rounds = {name: len(step.keep) for name, step in steps.items() if len(step.keep) > 1}
    assert rounds == {"iterative-snip": 60, "force": 60, "synflow": 100, "cropit-u": 7, "earlycrop-u": 7}
    by_gradients = {
        name: step.criterion for name, step in steps.items() if isinstance(step.criterion, GradientCriterion)
    }
    assert {name for name, criterion in by_gradients.items() if criterion.training} == {
        "iterative-snip",
        "force",
        "grasp",
    }
    assert {name for name, criterion in by_gradients.items() if criterion.order == 2} == {
        "grasp", "crop-u", "cropit-u", "earlycrop-u"
    }  # fmt: skip
    assert {name for name, criterion in by_gradients.items() if criterion.signed} == {"grasp"}
    grasp = steps["grasp"].criterion
    assert isinstance(grasp, GradientCriterion)
    assert (grasp.value, grasp.temperature) == (crop, 200)
    assert isinstance(steps["synflow"].criterion, SynapticFlow)


TICKETS = ("imp", "lth", "ltr", "lrr")


def test_settings_reach_the_step() -> None:
    progress, images = PruningRounds(rounds=4, schedule="linear"), ScoringImages(batches=3, batch_size=7)
    force = masks_of("force", loss="logit", progress=progress, images=images, batchnorm="eval")
    assert force.keep == linear_remaining(0.05, 4)
    criterion = force.criterion
    assert isinstance(criterion, GradientCriterion)
    assert (criterion.loss, criterion.batches, criterion.batch_size, criterion.training) == ("logit", 3, 7, False)
    assert not masks_of("snip", mask=GlobalMask(keep_one_per_layer=False)).guard


@pytest.mark.parametrize("name", [name for name, method in methods().items() if method.unstructured])
def test_weights_are_drawn_anew_only_where_asked(name: str) -> None:
    kind = methods()[name]
    given, random = (kind(start=start).steps(TWENTIETH) for start in ("given", "random"))
    assert isinstance(random[0], Reinitialize)
    assert list(map(str, random[1:])) == list(map(str, given))


def test_earlycrop_u_trains_until_it_settles_and_masks_then() -> None:
    train, masks = methods()["earlycrop-u"]().steps(TWENTIETH)
    assert isinstance(train, Train)
    assert train.stop is not None
    assert train.stop.rule.keywords == {"factor": pytest.approx(0.05)}  # type: ignore[attr-defined]
    assert isinstance(masks, MaskUnstructured)
