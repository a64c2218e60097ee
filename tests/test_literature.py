"""ResNet-56 on CIFAR-10 with the first convolution of every block cut: counts worked out by hand from the widths.

A block of width w whose first convolution keeps k filters has 2 * 9 * w * k weights (one reads more for the first of a
stage) and 2k + 2w affine parameters; the published sparsities are 31.14, 49.82, 70.57, 90.39 and 95.19 %.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compressor.budget.layer_rules import LayerRule
from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import PrunePlan
from compressor.criteria.magnitude import l1
from compressor.graph.cost import count_cost
from compressor.models.source import load_model
from compressor.recipe import read_recipe
from compressor.steps.select_channels import SelectChannels
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import remove_channels

DENSE_PARAMS, DENSE_MACS = 853_018, 125_485_696


def params_by_hand(ratio: float) -> int:
    """Sum over layers: weights, two affine parameters a BatchNorm channel, the classifier."""
    total = 3 * 9 * 16 + 2 * 16
    before = 16
    for width in (16, 32, 64):
        kept = width - min(math.ceil(ratio * width), width - 1)
        for _ in range(9):
            total += 9 * before * kept + 2 * kept + 9 * kept * width + 2 * width
            before = width
    return total + 64 * 10 + 10


@pytest.mark.parametrize(
    ("ratio", "params", "speedup"),
    [
        ("30%", 587_428, 1.45),
        ("50%", 428_074, 1.99),
        ("70%", 250_954, 3.59),
        ("90%", 81_502, 11.58),
        ("95%", 41_092, 19.85),
    ],
)
def test_l1_cifar10_gives_the_literatures_networks(ratio: str, params: int, speedup: float) -> None:
    recipe = read_recipe("l1-cifar10", [f"prune.target.ratio={ratio}"])
    module = load_model("cifar:resnet56").module
    inputs = torch.randn(1, 3, 32, 32)
    structure = analyze(module, inputs, name="resnet56")
    original = count_cost(module, inputs)
    assert (original.params, original.macs) == (DENSE_PARAMS, DENSE_MACS)
    assert recipe.prune.round_to == 1
    (step,) = (each for each in recipe.method.steps(recipe.pruning_target()) if isinstance(each, SelectChannels))
    graded = step.criterion.score_channels(module, structure.groups)
    plan, groups = select_channels(structure.groups, graded, step.target, structure.cost, original)
    cost = count_cost(remove_channels(module, structure, plan), inputs)
    assert cost.params == params == params_by_hand(int(ratio.rstrip("%")) / 100)
    assert round(original.macs / cost.macs, 2) == speedup
    assert {name.rpartition(".")[2] for name in plan.kept} == {"conv1"}
    assert sum(group.frozen is None for group in groups) == 27


def test_option_a_streams_can_be_cut_too() -> None:
    """Zero-padded shortcuts tie channel i of a stage to channel i + 8 (or 16) of the next."""
    module = load_model("cifar:resnet20").module
    structure = analyze(module, torch.randn(1, 3, 32, 32), name="resnet20")
    free = {group.name: group.size for group in structure.groups if group.frozen is None}
    assert free["conv1"] == 16
    assert free["layer2.0.conv2"] == 16
    assert free["layer3.0.conv2"] == 32


def vgg19() -> nn.Module:
    """VGG-19 for CIFAR-100: sixteen 3x3 convolutions with BatchNorm, one linear layer; 20,081,188 parameters."""
    layers: list[nn.Module] = []
    before = 3
    for width, repeats in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(repeats):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2) if len(layers) < 50 else nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 100)).eval()


def test_vgg19_has_the_literatures_sparsities_one_column_to_the_left() -> None:
    """The published row for ratios .3 .5 .7 .9 is that of .1 .3 .5 .7."""
    module, inputs = vgg19(), torch.randn(1, 3, 32, 32)
    structure = analyze(module, inputs, name="vgg19")
    whole = structure.cost.of(PrunePlan({}))
    assert whole.params == 20_081_188
    graded = l1.score_channels(module, structure.groups)
    found = []
    for ratio in (0.1, 0.3, 0.5, 0.7, 0.9):
        selection = PruningTarget(ratio=ratio, rules=(LayerRule("0", freeze=True),))
        plan, _ = select_channels(structure.groups, graded, selection, structure.cost, whole)
        cost = structure.cost.of(plan)
        found.append((100 * (1 - cost.params / whole.params), whole.macs / cost.macs))
    assert [sparsity for sparsity, _ in found] == pytest.approx([19.24, 51.01, 74.87, 90.98, 98.96], abs=0.005)
    assert [speedup for _, speedup in found] == pytest.approx([1.23, 1.97, 3.61, 8.89, 45.53], abs=0.005)


@pytest.mark.long
@pytest.mark.parametrize(
    ("speedup", "overrides"),
    [
        (2.31, []),
        (1.49, ["prune.target.ratio=30%", "prune.layers.0.ratio=14%"]),
        (3.06, ["prune.target.ratio=68%", "prune.layers.0.ratio=50%"]),
        (
            2.56,
            [
                "prune.target.ratio=74%",
                "prune.layers=[{match: 'layer4.*.conv[12]', ratio: 21%}, {match: 'layer3.*.conv[12]', ratio: 60%}, "
                "{match: 'layer*.conv[12]', freeze: false}, {match: '*', freeze: true}]",
            ],
        ),
    ],
)
def test_tpp_imagenet_gives_the_published_speedups_of_resnet50(speedup: float, overrides: list[str]) -> None:
    recipe = read_recipe("tpp-imagenet", overrides)
    module = load_model("torchvision:resnet50").module
    structure = analyze(module, torch.randn(1, 3, 224, 224), name="resnet50")
    whole = structure.cost.of(PrunePlan({}))
    step = next(each for each in recipe.method.steps(recipe.pruning_target()) if isinstance(each, SelectChannels))
    graded = step.criterion.score_channels(module, structure.groups)
    plan, _ = select_channels(structure.groups, graded, step.target, structure.cost, whole)
    assert round(whole.macs / structure.cost.of(plan).macs, 2) == speedup
