"""Every criterion against numbers computed by hand or by an independent formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.core import ChannelGroup
from compressor.criteria import channel_criteria
from compressor.criteria._sampled_answers import own_answer_loss
from compressor.criteria.base import ScoringContext
from compressor.criteria.fisher import FisherDiagonal
from compressor.criteria.fpgm import mean_distance
from compressor.criteria.hessian import HessianVector
from compressor.criteria.hrank import map_rank
from compressor.criteria.lamp import lamp_scores
from compressor.criteria.taylor import TaylorFO
from compressor.error_curves.channel_maps import visit_channel_maps
from compressor.surgery.analysis import analyze
from tests.criteria.unlabelled import unlabelled
from tests.training.toys import Shortcut, toy_data


def test_distance_to_the_other_filters() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(mean_distance(rows), torch.tensor([5 / 3, 10 / 3, 5 / 3], dtype=torch.float64))


def test_lamp_divides_by_what_is_removed_later() -> None:
    np.testing.assert_allclose(lamp_scores(np.array([4.0, 1.0, 3.0])), [1.0, 1 / 8, 3 / 7])
    np.testing.assert_allclose(lamp_scores(np.zeros(2)), [0.0, 0.0])


def test_rank_of_feature_maps() -> None:
    maps = torch.zeros(1, 3, 1, 4, 4)
    maps[0, 1, 0] = torch.ones(4, 4)
    maps[0, 2, 0] = torch.eye(4)
    scores = map_rank(maps)
    assert scores.round().tolist() == [[0.0, 1.0, 4.0]]
    assert map_rank(2 * maps)[0, 1] > scores[0, 1], "equal ranks are ordered by energy"


def test_mean_activation_is_taken_where_channels_are_read() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    data, groups = unlabelled(torch.randn(8, 3, 5, 5)), analyze(module, torch.randn(1, 3, 5, 5), name="toy").groups
    scores = channel_criteria()["mean_activation"].score_channels(module, groups, ScoringContext(data))
    images = torch.cat(list(data.calibration_batches(8, images=512)))
    expected = module[:2](images).detach().double().mean((0, 2, 3)).numpy()
    np.testing.assert_allclose(scores["0"], expected, rtol=1e-6)


def test_channels_of_a_grouped_convolution_are_seen_in_every_group() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2, bias=False), nn.Conv2d(8, 2, 1)).eval()
    images = torch.randn(2, 3, 5, 5)
    groups = [group for group in analyze(module, images[:1], name="toy").groups if group.name == "0"]
    shown: dict[str, Tensor] = {}
    visit_channel_maps(module, groups, [images], lambda name, weight, values: shown.update({weight: values}))
    dense = module[0](images)
    torch.testing.assert_close(shown["1.weight"][:, 1], torch.stack([dense[:, 1], dense[:, 5]], dim=1))


def _linear_gaussian() -> tuple[nn.Module, Tensor, tuple[ChannelGroup, ...]]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False)).eval()
    inputs = torch.randn(64, 3)
    return module, inputs, analyze(module, inputs[:1], name="toy").groups


def test_fisher_and_hessian_of_a_linear_network_with_normal_answers() -> None:
    """For answers drawn from N(Vx, s^2) the Fisher information is the Gauss-Newton matrix, known in closed form."""
    module, inputs, groups = _linear_gaussian()
    first, second = module[0].weight.detach().double(), module[1].weight.detach().double()
    covariance = (inputs.T @ inputs / len(inputs)).double()
    precision = 1 / float((inputs.double() @ first.T @ second.T).std()) ** 2
    reading = second.square().sum(0) * precision  # (4,)
    diagonal = 0.5 * reading * (first.square() @ covariance.diagonal())
    block = 0.5 * reading * torch.einsum("ci,ij,cj->c", first, covariance, first)
    context = ScoringContext(unlabelled(inputs, repeats=400))
    fisher = FisherDiagonal(batches=300, batch_size=32).score_channels(module, groups, context)["0"]
    hessian = HessianVector(batches=300, batch_size=32).score_channels(module, groups, context)["0"]
    np.testing.assert_allclose(fisher, diagonal, rtol=0.4)
    np.testing.assert_allclose(hessian, block, rtol=0.1, atol=0.03)


def test_signs_differ_from_round_to_round() -> None:
    """One batch of all images has the same Hessian in every round, so that only the signs can differ."""
    module, data = Shortcut().eval(), toy_data(augmented=False)
    groups = analyze(module, torch.randn(1, 3, 8, 8), name="toy").groups
    criterion = HessianVector(batches=1, batch_size=data.train_size)
    first, again, other = (
        criterion.score_channels(module, groups, ScoringContext(data, round=number))["inner"] for number in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, rtol=1e-3)


def test_drawn_answers_have_a_gradient_of_mean_zero() -> None:
    logits = torch.randn(1, 5).expand(20000, 5).clone().requires_grad_()
    loss = own_answer_loss(logits, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(gradient.sum(0).abs().max()) < 0.02
    assert float(gradient.abs().sum()) > 0.5, "a divergence from the model itself would have none at all"


def test_answers_are_drawn_for_samples_wherever_they_are() -> None:
    tags = torch.randn(4, 4, requires_grad=True)  # as many steps as samples
    loss = own_answer_loss({"tags": tags, "loss": tags.mean()}, torch.Generator().manual_seed(0), None, (1, None))
    noise = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, noise.square().sum() / 4 / 2)


@pytest.mark.parametrize("criterion", [TaylorFO(2, 8), FisherDiagonal(2, 8), HessianVector(2, 8)])
def test_gradient_criteria_work_with_and_without_labels(criterion: TaylorFO | FisherDiagonal | HessianVector) -> None:
    module = Shortcut().eval()
    groups = analyze(module, torch.randn(1, 3, 8, 8), name="toy").groups
    for data in (toy_data(), unlabelled(torch.randn(16, 3, 8, 8))):
        scores = criterion.score_channels(module, groups, ScoringContext(data))
        assert scores.keys() == {"stem", "inner"}
        assert all(np.isfinite(values).all() and values.any() for values in scores.values())
