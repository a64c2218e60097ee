"""Models with known answers: what reconstruction must restore exactly, and what it must leave alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pruned_models import images, pruned, seeded
from torch import Tensor, nn

from compressor.core import KeptIndices, NMPattern
from compressor.errors import DataError
from compressor.reconstruction.pair import rebatch
from compressor.reconstruction.sequential import ReconstructionResult, reconstruct
from compressor.reconstruction.solver_options import ReconstructionSettings

EXACT = ReconstructionSettings(ridges=(0.0,))


def run(
    dense: nn.Module, x: Tensor, removed: Mapping[str, Sequence[int]], settings: ReconstructionSettings = EXACT
) -> ReconstructionResult:
    slim, kept = pruned(dense, x[:1], removed)
    before = copy.deepcopy(slim.state_dict())
    result = reconstruct(dense, slim, kept, [(x,)], settings)
    for name, value in slim.state_dict().items():
        assert torch.equal(value, before[name]), "the slim model given was changed"
    return result


def error(dense: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((dense(x) - other(x)).abs().max() / dense(x).abs().max())


def with_copies(module: nn.Module, writer: str, copies: Mapping[int, int]) -> None:
    """Make filters of a convolution, and the entries of the norm behind it, copies of others."""
    for name, tensor in module.state_dict().items():
        if name.rpartition(".")[0] in (writer, writer.replace("conv", "bn")) and tensor.ndim:
            for to, source in copies.items():
                tensor[to] = tensor[source]


class Block(nn.Module):
    """Two convolutions with BatchNorm and a shortcut; `late`: the shortcut is computed after the branch."""

    def __init__(self, channels: int, stride: int = 1, inplace: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.down = nn.Conv2d(channels, channels, 1, stride) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.down(x)
        return self.relu(out)


class Residual(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8, inplace=inplace), Block(8, 2, inplace=inplace))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("inplace", [False, True])
def test_copies_of_channels_are_replaced_exactly(inplace: bool) -> None:
    dense = seeded(Residual(inplace))
    for block in dense.blocks:
        with_copies(block, "conv1", {1: 0, 5: 2, 7: 3})
    x = images(60, 3, 8, 8)
    removed = {f"blocks.{index}.conv1": [1, 5, 7] for index in range(2)}
    slim, _ = pruned(dense, x[:1], removed)
    assert error(dense, slim, x) > 0.05
    result = run(dense, x, removed)
    assert error(dense, result.module, x) < 1e-5
    layers = {layer.name: layer for layer in result.layers}
    assert list(layers) == [
        "blocks.0.conv1",
        "blocks.0.conv2",
        "blocks.1.conv1",
        "blocks.1.down",
        "blocks.1.conv2",
        "head",
    ]
    assert layers["blocks.0.conv2"].accepted
    assert layers["blocks.0.conv2"].error_before > 1e-3 > layers["blocks.0.conv2"].error_after


def test_nothing_pruned_changes_nothing() -> None:
    dense = seeded(Residual())
    x = images(60, 3, 8, 8)
    result = reconstruct(dense, dense, {}, [(x,)], EXACT)
    assert result.layers == ()
    every = {name: {} for name in dense.state_dict()}
    result = reconstruct(dense, dense, every, [(x,)], ReconstructionSettings())
    assert {layer.accepted for layer in result.layers} == {False}
    for name, value in result.module.state_dict().items():
        assert torch.equal(value, dense.state_dict()[name])


class Chain(nn.Module):
    """A convolution that writes four channels, an activation, a layer that reads them."""

    def __init__(self, reader: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.reader = reader

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(F.relu(self.conv(x)))


@pytest.mark.parametrize(
    "reader",
    [
        nn.Conv2d(4, 5, 3, padding=1),
        nn.Conv2d(4, 5, 1, bias=False),
        nn.ConvTranspose2d(4, 5, 3, stride=2, padding=1),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(4, 5, 1)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)),
        nn.Sequential(nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)),
        nn.Sequential(nn.Conv2d(4, 5, 1, bias=False), nn.GroupNorm(1, 5)),
    ],
    ids=lambda reader: str(reader)[:40],
)
def test_every_kind_of_reader_takes_over_a_copied_channel(reader: nn.Module) -> None:
    dense = seeded(Chain(reader))
    with_copies(dense, "conv", {1: 0})
    depthwise = next((layer for layer in dense.reader.modules() if getattr(layer, "groups", 1) > 1), None)
    if isinstance(depthwise, nn.Conv2d):
        with torch.no_grad():
            depthwise.weight[1], depthwise.bias[1] = depthwise.weight[0], depthwise.bias[0]
    x = images(80, 3, 6, 6)
    slim, _ = pruned(dense, x[:1], {"conv": [1]})
    assert error(dense, slim, x) > 0.02
    assert error(dense, run(dense, x, {"conv": [1]}).module, x) < 1e-5


def test_check_13_the_intercept_goes_into_the_running_mean_or_the_bias() -> None:
    x = images(60, 3, 6, 6)
    outputs = []
    for bias in (False, True):
        dense = seeded(Chain(nn.Sequential(nn.Conv2d(4, 5, 3, padding=1, bias=bias), nn.BatchNorm2d(5))), seed=3)
        if bias:
            dense.load_state_dict(outputs[0][1].state_dict(), strict=False)
            nn.init.zeros_(dense.reader[0].bias)
        result = run(dense, x, {"conv": [2]}, ReconstructionSettings())
        mean_moved = not torch.equal(result.module.reader[1].running_mean, dense.reader[1].running_mean)
        assert mean_moved != bias
        assert (result.module.reader[0].bias is not None) == bias
        outputs.append((result.module, dense))
    assert error(outputs[0][0], outputs[1][0], x) < 1e-6


def test_check_9_a_constant_channel_behind_zero_padding_is_compensated_on_average() -> None:
    dense = nn.Sequential(nn.Conv1d(1, 2, 1), nn.Conv1d(2, 1, 3, padding=1)).eval()
    with torch.no_grad():
        dense[0].weight.copy_(torch.tensor([[[1.0]], [[0.0]]]))
        dense[0].bias.copy_(torch.tensor([0.0, 1.0]))  # the second channel is 1 everywhere
        dense[1].weight.copy_(torch.tensor([[[0.0, 0, 0], [1, 1, 1]]]))
        dense[1].bias.zero_()
    x = images(20, 1, 4)
    assert dense(x)[0].flatten().tolist() == [2, 3, 3, 2]
    slim, kept = pruned(dense, x[:1], {"0": [1]})
    result = reconstruct(dense, slim, kept, [(x,)], ReconstructionSettings(ridges=()))
    assert result.module[1].bias.item() == pytest.approx(2.5)
    assert [math.isinf(layer.ridge) for layer in result.layers] == [True, True]


def test_check_6_a_neighbouring_tap_stands_in_for_a_shifted_channel() -> None:
    dense = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1, bias=False), nn.Conv1d(2, 1, 2, bias=False)).eval()
    with torch.no_grad():
        dense[0].weight.copy_(torch.tensor([[[0.0, 1, 0]], [[1.0, 0, 0]]]))  # c1 = x(t), c2 = x(t - 1)
        dense[1].weight.copy_(torch.tensor([[[0.0, 1], [0.0, 1]]]))
    result = run(dense, images(60, 1, 30), {"0": [1]})
    torch.testing.assert_close(result.module[1].weight, torch.tensor([[[1.0, 1.0]]]), rtol=1e-4, atol=1e-4)


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shortcut, self.branch = nn.Conv1d(1, 1, 1, bias=False), nn.Conv1d(1, 2, 1, bias=False)
        self.last = nn.Conv1d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.branch(x))) + self.shortcut(x)


def test_check_10_the_last_layer_of_a_branch_makes_up_for_the_shortcut() -> None:
    dense = seeded(Sum())
    slim = copy.deepcopy(dense)
    x = images(60, 1, 9)
    with torch.no_grad():
        dense.branch.weight.copy_(torch.tensor([[[1.0]], [[-1.0]]]))  # relu(x) and relu(-x) span the line
        slim.load_state_dict(dense.state_dict())
        slim.shortcut.weight.add_(0.5)
    every: KeptIndices = {"shortcut.weight": {}}
    frozen = reconstruct(dense, slim, every, [(x,)], ReconstructionSettings(ridges=(), residual=False))
    assert error(dense, frozen.module, x) > 0.1
    # The shortcut itself is solved first; without that its error of 0.5 x is what the branch has to undo.
    solved = reconstruct(dense, slim, every, [(x,)], EXACT)
    assert error(dense, solved.module, x) < 1e-5


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    dense = seeded(Residual())
    x = images(60, 3, 12, 12)
    results = [
        run(dense, x, {"blocks.0.conv1": [0, 1, 2]}, ReconstructionSettings(seed=seed, positions=9))
        for seed in (0, 0, 1)
    ]
    states = [result.module.state_dict() for result in results]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert results[0].layers == results[1].layers
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_batches_that_do_not_fit_join_later_and_the_answer_is_close() -> None:
    dense = seeded(Residual())
    with_copies(dense.blocks[0], "conv1", {1: 0})
    x = images(100, 3, 8, 8)
    tight = run(dense, x, {"blocks.0.conv1": [1]}, ReconstructionSettings(ridges=(0.0,), memory=200_000))
    assert error(dense, tight.module, x) < 1e-5
    samples = [layer.samples for layer in tight.layers if layer.name.startswith("blocks")]
    assert samples[0] < samples[-1] * 4  # positions are a quarter in the second block
    full = run(dense, x, {"blocks.0.conv1": [1]})
    assert tight.layers[0].samples < full.layers[0].samples


class Twice(nn.Module):
    """One convolution called at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shared(F.relu(self.first(x)))
        return self.shared(F.relu(y))


def test_a_layer_called_twice_is_solved_once_for_both_calls() -> None:
    dense = seeded(Twice())
    x = images(60, 3, 6, 6)
    slim = copy.deepcopy(dense)
    with torch.no_grad():
        slim.shared.weight.mul_(0.8)
    result = reconstruct(dense, slim, {"shared.weight": {}}, [(x,)], ReconstructionSettings())
    (layer,) = result.layers
    assert layer.samples == 2 * 48 * 36
    assert layer.error_after < layer.error_before
    assert error(dense, result.module, x) < error(dense, slim, x)


def test_one_image_and_too_few_to_hold_any_out_compensate_means() -> None:
    dense = seeded(Residual())
    for count in (1, 3):
        result = run(dense, images(count, 3, 8, 8), {"blocks.0.conv1": [0]}, ReconstructionSettings())
        assert not any(layer.accepted for layer in result.layers)
        assert all(layer.reason for layer in result.layers)


class DependsOnValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.b(F.relu(self.a(x))))
        return self.c(y) if y.sum().item() > -1e9 else y


def test_layers_behind_a_call_that_depends_on_values_are_left_and_reported() -> None:
    dense = seeded(DependsOnValues())
    x = images(60, 3, 6, 6)
    slim, kept = copy.deepcopy(dense), {"a.weight": {}, "c.weight": {}}
    with torch.no_grad():
        slim.a.weight.mul_(0.5)
    result = reconstruct(dense, slim, kept, [(x,)], ReconstructionSettings())
    layers = {layer.name: layer for layer in result.layers}
    assert layers["a"].accepted
    assert not layers["c"].accepted
    assert layers["c"].reason


@pytest.mark.parametrize("pattern", [None, NMPattern(2, 4)])
def test_masked_weights_are_refitted_and_zeros_stay_zeros(pattern: NMPattern | None) -> None:
    dense = seeded(Residual())
    x = images(80, 3, 8, 8)
    slim, masks = copy.deepcopy(dense), {}
    for name in ("blocks.0.conv1.weight", "blocks.0.conv2.weight", "blocks.1.conv2.weight", "head.weight"):
        weight = slim.get_parameter(name).data
        groups = weight.abs().unflatten(1, (-1, 4))
        masks[name] = (groups.argsort(2).argsort(2) >= 2).flatten(1, 2)  # the larger two of four along input channels
        weight.mul_(masks[name])
    settings = ReconstructionSettings(mask_searches=("sparsegpt", "obc"), pattern=pattern)
    plain = reconstruct(dense, slim, {}, [(x,)], ReconstructionSettings(), masks)
    searched = reconstruct(dense, slim, {}, [(x,)], settings, masks)
    assert error(dense, plain.module, x) < error(dense, slim, x)
    for result in (plain, searched):
        for name, mask in result.masks.items():
            weight = result.module.get_parameter(name)
            assert not weight[~mask].any()
            assert int(mask.sum()) == int(masks[name].sum())
    assert all(torch.equal(mask, masks[name]) for name, mask in plain.masks.items())
    assert any(not torch.equal(mask, masks[name]) for name, mask in searched.masks.items())
    assert {layer.mask_search for layer in plain.layers} == {None}
    replaced = {f"{layer.name}.weight" for layer in searched.layers if layer.mask_search}
    assert replaced == {name for name, mask in searched.masks.items() if not torch.equal(mask, masks[name])}
    if pattern is not None:
        assert all(int(mask.unflatten(1, (-1, 4)).sum(2).max()) == 2 for mask in searched.masks.values())


def test_parallel_mode_fits_every_layer_on_the_dense_inputs() -> None:
    dense = seeded(Residual())
    for block in dense.blocks:
        with_copies(block, "conv1", {1: 0, 5: 2})
    x = images(60, 3, 8, 8)
    removed = {f"blocks.{index}.conv1": [1, 5] for index in range(2)}
    result = run(dense, x, removed, ReconstructionSettings(mode="parallel", ridges=(0.0,)))
    assert error(dense, result.module, x) < 1e-5
    assert {layer.name for layer in result.layers if layer.accepted} == {"blocks.0.conv2", "blocks.1.conv2"}


def test_a_sample_that_is_not_finite_is_named() -> None:
    dense = seeded(Residual())
    x = images(20, 3, 8, 8)
    x[7, 1, 2, 3] = math.nan
    with pytest.raises(DataError, match="sample 7"):
        reconstruct(dense, dense, {}, [(x,)], EXACT)


def test_batches_are_cut_and_checked_along_the_samples() -> None:
    shared, sequences, rows = torch.tensor(2.0), torch.randn(7, 40, 3), torch.randn(40)
    batches = rebatch(nn.Identity(), [(shared, sequences, rows)], 32, (None, 1, 0))
    assert [[tuple(part.shape) for part in batch] for batch in batches] == [[(), (7, 4, 3), (4,)]] * 10
    assert torch.equal(torch.cat([batch[1] for batch in batches], 1), sequences)
    sequences[2, 23] = math.inf
    with pytest.raises(DataError, match="sample 23"):
        rebatch(nn.Identity(), [(shared, sequences, rows)], 32, (None, 1, 0))


def test_constant_samples_do_no_harm() -> None:
    dense = seeded(Residual())
    x = images(1, 3, 8, 8).expand(40, -1, -1, -1)
    result = run(dense, x, {"blocks.0.conv1": [1]}, ReconstructionSettings())
    assert all(value.isfinite().all() for value in result.module.state_dict().values())
    assert error(dense, result.module, x) < 1e-2


def test_rows_of_a_layer_with_too_many_inputs_are_scaled_and_its_means_restored() -> None:
    """Each of the 3 outputs has a factor and an intercept: two unknowns of 320, fitted by hand on all samples."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 3)).eval()
    x = images(400, 3, 8, 8) * torch.linspace(0.1, 3, 400)[torch.randperm(400), None, None, None]  # of any brightness
    settings = ReconstructionSettings(most_features=300, residual=False)
    slim, _ = pruned(dense, x[:1], {"0": [1, 4, 6]})
    result = run(dense, x, {"0": [1, 4, 6]}, settings)
    (layer,) = [layer for layer in result.layers if layer.name == "3"]
    assert (layer.features, layer.accepted) == (1, True)
    before, after = slim[3], result.module[3]
    factors = (after.weight / before.weight).detach()
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    with torch.no_grad():
        now, target = result.module[:3](x) @ before.weight.T, dense(x)
    fitted = [np.polyfit(now[:, row].numpy(), target[:, row].numpy(), 1) for row in range(3)]
    assert factors[:, 0].tolist() == pytest.approx([factor for factor, _ in fitted], rel=1e-2)
    assert after.bias.tolist() == pytest.approx([shift for _, shift in fitted], abs=1e-2)
    assert error(dense, result.module, x) < error(dense, slim, x)


def test_filters_of_a_wide_transposed_convolution_are_scaled() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2)).eval()
    x = images(40, 3, 8, 8) * torch.linspace(0.1, 3, 40)[torch.randperm(40), None, None, None]
    slim, _ = pruned(dense, x[:1], {"0": [1, 4, 6]})
    result = run(dense, x, {"0": [1, 4, 6]}, ReconstructionSettings(most_features=2, residual=False))
    (layer,) = [layer for layer in result.layers if layer.name == "2"]
    assert (layer.features, layer.accepted) == (1, True)
    factors = (result.module[2].weight / slim[2].weight).detach()
    torch.testing.assert_close(factors, factors[:1, :, :1, :1].expand_as(factors))
    assert len(factors[0, :, 0, 0].unique()) == 4
    assert error(dense, result.module, x) < error(dense, slim, x)


def test_a_layer_with_too_many_unknowns_is_left_in_parallel_mode_and_reported() -> None:
    dense = seeded(Residual())
    x = images(40, 3, 8, 8)
    settings = ReconstructionSettings(most_features=71, mode="parallel")
    slim, _ = pruned(dense, x[:1], {"blocks.0.conv1": [1]})
    result = run(dense, x, {"blocks.0.conv1": [1]}, settings)
    layers = {layer.name: layer for layer in result.layers}
    assert layers["blocks.0.conv2"].accepted  # 63 unknowns
    assert layers["blocks.1.conv1"].features == 0
    assert torch.equal(result.module.blocks[1].conv1.weight, slim.blocks[1].conv1.weight)
