"""Group OBS against hand-computed cases, exhaustive search, and the masked dense model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.criteria.base import ScoringContext
from compressor.criteria.obs import GroupOBS
from compressor.error_curves.curves import CONSTANT, UNSEEN, curves_of, error_curves, scores_along
from compressor.error_curves.elimination import QuadraticReader, eliminate, improve
from compressor.error_curves.readers import measure_readers
from compressor.error_curves.sensitivity import measure_sensitivities
from compressor.error_curves.single_cut import cut_tensors
from compressor.surgery.analysis import analyze
from tests.criteria.test_criteria_everywhere import Recurrent
from tests.criteria.unlabelled import unlabelled


def by_hand() -> QuadraticReader:
    matrix = torch.tensor([[4.0, 2, 0], [2, 3, 1], [0, 1, 2]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 1, 1], [0, 1, -1]], dtype=torch.float64)
    return QuadraticReader(matrix, weight, torch.arange(3).unsqueeze(1), 1.0)


def keeping(size: int, *removed: int) -> Tensor:
    return torch.tensor([index not in removed for index in range(size)])


def random_readers() -> list[QuadraticReader]:
    random = torch.Generator().manual_seed(0)
    samples = torch.randn(200, 24, generator=random, dtype=torch.float64)
    matrix = samples.T @ samples / 200
    weights = [torch.randn(rows, 24, generator=random, dtype=torch.float64) for rows in (5, 40)]
    return [QuadraticReader(matrix, weight, torch.arange(24).reshape(8, 3), 0.5) for weight in weights]


@pytest.mark.parametrize(
    ("removed", "loss", "weight"),
    [
        ((0,), 2.4, [[0, 1.8, 0.6], [0, 1, -1]]),
        ((1,), 3.0, [[1.5, 0, 1.5], [0.5, 0, -0.5]]),
        ((2,), 3.0, [[0.75, 1.5, 0], [0.25, 0.5, 0]]),
        ((1, 2), 8.0, [[1.5, 0, 0], [0.5, 0, 0]]),
    ],
)
def test_loss_and_refit(removed: tuple[int, ...], loss: float, weight: list[list[float]]) -> None:
    reader = by_hand()
    assert reader.error(keeping(3, *removed)) == pytest.approx(loss)
    torch.testing.assert_close(reader.refit(keeping(3, *removed)), torch.tensor(weight, dtype=torch.float64))


def test_elimination_gives_the_error_of_every_width() -> None:
    order, errors = eliminate([by_hand()], 3)
    assert order.tolist() == [0, 2]
    assert errors.tolist() == pytest.approx([0, 2.4, 14 / 3])
    readers = random_readers()
    order, errors = eliminate(readers, 8)
    for count in range(1, 8):
        kept = keeping(8, *order[:count].tolist())
        assert float(errors[count]) == pytest.approx(sum(reader.error(kept) for reader in readers))
        change = [reader.refit(kept) - reader.weight for reader in readers]
        direct = sum(float((d @ reader.matrix * d).sum()) / 2 for reader, d in zip(readers, change, strict=True))
        assert float(errors[count]) == pytest.approx(direct)


def test_the_inverse_is_computed_again_and_several_channels_are_removed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compressor.error_curves.elimination.REFRESH", 2)
    readers = random_readers()
    order, errors = eliminate(readers, 8)
    monkeypatch.setattr("compressor.error_curves.elimination.REFRESH", 99)
    again, exact = eliminate(readers, 8)
    assert order.tolist() == again.tolist()
    torch.testing.assert_close(errors, exact)
    monkeypatch.setattr("compressor.error_curves.elimination.EXACT", 2)
    order, errors = eliminate(readers, 8)
    assert float(errors[-1]) == pytest.approx(sum(reader.error(keeping(8, *order.tolist())) for reader in readers))


def test_swaps_reach_the_best_choice_from_the_worst() -> None:
    readers = random_readers()

    def error(kept: Tensor) -> float:
        return sum(reader.error(kept) for reader in readers)

    choices = [keeping(8, *removed) for removed in itertools.combinations(range(8), 4)]
    best, worst = min(choices, key=error), max(choices, key=error)
    improved = improve(readers, worst)
    assert int(improved.sum()) == 4
    assert error(best) <= error(improved) <= error(best) * 1.1 < error(worst)


def test_a_copied_channel_costs_nothing_and_is_removed_first() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)).eval()
    with torch.no_grad():
        for tensor in (module[0].weight, module[0].bias):
            tensor[4] = tensor[1]
    groups = analyze(module, torch.randn(1, 3, 8, 8), name="toy").groups
    curve = error_curves(module, groups, [(torch.randn(32, 3, 8, 8),)])["0"]
    assert curve.order[0] in (1, 4)
    assert curve.errors[1] < 0.01 * curve.errors[2]
    assert (np.diff(curve.errors) >= 0).all()
    assert 0 < curve.errors[-1] < 1


def test_the_error_is_that_of_the_masked_dense_model_whose_readers_are_refitted() -> None:
    """Without a ridge and with all positions sampled, the curve is the exact change of the output's variance."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)).eval()
    images = torch.randn(64, 3, 8, 8)
    groups = analyze(module, images[:1], name="toy").groups
    readers = measure_readers(module, groups, [(images,)])
    curve = curves_of(readers, groups)["0"]
    kept = keeping(6, *curve.order[:3].tolist())
    tensors = cut_tensors(module, groups[0], readers["0"], kept)
    assert not tensors["2.weight"][:, ~kept].any()
    with torch.no_grad():
        dense = module(images).double()
        difference = torch.func.functional_call(module, tensors, (images,)).double() - dense
    assert float(difference.mean((0, 2, 3)).abs().max()) < 1e-5, "means are compensated"
    share = float(difference.square().mean((0, 2, 3)).sum() / dense.var((0, 2, 3)).sum())
    assert curve.errors[3] == pytest.approx(share, rel=0.02)


def test_groups_that_nothing_reads_and_constant_inputs_say_so() -> None:
    torch.manual_seed(0)
    module, steps = Recurrent().eval(), torch.randn(48, 4, 5)
    groups = analyze(module, steps[:1], name="toy").groups
    curves = error_curves(module, groups, [(steps,)])
    assert (curves["first"].note, curves["lstm"].note) == (UNSEEN, "")
    assert curves["first"].errors[0] == 0
    assert (np.diff(curves["first"].errors) > 0).all()
    dead = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    with torch.no_grad():
        dead[0].weight.zero_()
    groups = analyze(dead, torch.randn(1, 4), name="toy").groups
    assert error_curves(dead, groups, [(torch.randn(40, 4),)])["0"].note == CONSTANT


def test_sensitivity_is_the_divergence_of_one_cut_over_its_error() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    inputs = torch.randn(200, 4)
    groups = analyze(module, inputs[:1], name="toy").groups
    readers = measure_readers(module, groups, [(inputs,)])
    curves, cuts = measure_sensitivities(module, groups, readers, curves_of(readers, groups), [(inputs,)], 3)
    curve = curves["0"]
    assert curve.weighted[4] == pytest.approx(cuts[0].divergence)
    assert cuts[0].divergence > 0
    assert cuts[0].changed is not None


def test_scores_rise_along_the_order() -> None:
    random = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    inputs = torch.randn(100, 4, generator=random)
    groups = analyze(module, inputs[:1], name="toy").groups
    curve = error_curves(module, groups, [(torch.cat([inputs] * 1),)])["0"]
    scores = scores_along(curve)
    assert np.argsort(scores, kind="stable").tolist() == curve.order.tolist()
    scored = GroupOBS(images=80).score_channels(module, groups, ScoringContext(unlabelled(inputs)))
    assert scored.keys() == {"0"}
