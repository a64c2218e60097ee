"""The CIFAR ResNets against published parameter counts, and a padded shortcut against its definition."""

import pytest
import torch

from compressor.models.cifar import NAMES, PaddedShortcut, blocks_per_stage, cifar_resnet


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("resnet8x2", 298_026),
        ("resnet20b", 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
    ],
)
def test_parameters(name: str, params: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in cifar_resnet(name).parameters()) == params


@pytest.mark.parametrize(("option", "size", "channels"), [("", 8, 1), ("b", 33, 4), ("x3b", 8, 1)])
def test_any_size_and_channels(option: str, size: int, channels: int) -> None:
    net = cifar_resnet(f"resnet8{option}", num_classes=7, in_channels=channels).eval()
    assert net(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_padded_shortcut() -> None:
    x = torch.randn(2, 16, 6, 6)
    y = PaddedShortcut(16, 32)(x)
    assert y.shape == (2, 32, 3, 3)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().sum() == 0 == y[:, 24:].abs().sum()


def test_padding_is_read_at_run_time() -> None:
    shortcut = PaddedShortcut(16, 32)
    shortcut.padding = (0, 0, 0, 0, 1, 3)
    assert shortcut(torch.ones(1, 5, 4, 4)).shape == (1, 9, 2, 2)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet21", "resnet2", "resnet", "resnet020", "resnet20c", "resnet20x1", "resnet20bx2"]
)
def test_names_outside_the_family(name: str) -> None:
    assert blocks_per_stage(name) is None


def test_names_of_the_family() -> None:
    assert [blocks_per_stage(name) for name in NAMES] == [1, 2, 3, 5, 7, 9, 18] * 2
