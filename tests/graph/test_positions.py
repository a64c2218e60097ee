"""Operators that work along positions leave the channels alone, each on the smallest network that has it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

Cut = Callable[..., tuple[dict[str, int], nn.Module]]  # see conftest.py


class Between(nn.Module):
    """linear -> operator -> linear, over 12 positions; or convolutions around it, on 8 x 8."""

    def __init__(self, operator: Callable[[Tensor], Tensor], *, image: bool, outputs: int = 8) -> None:
        super().__init__()
        self.operator = operator
        self.a = nn.Conv2d(3, 8, 1) if image else nn.Linear(5, 8)
        self.b = nn.Conv2d(outputs, 2, 1) if image else nn.Linear(outputs, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.operator(self.a(x)))


def places(x: Tensor) -> Tensor:
    """Two thirds of the positions, backwards."""
    return torch.arange(7, -1, -1, device=x.device)


SEQUENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "index_select": lambda x: x.index_select(1, places(x)),
    "gather": lambda x: x.gather(1, places(x)[None, :, None].expand(len(x), -1, x.shape[2])),
    "take_along_dim": lambda x: torch.take_along_dim(x, places(x)[None, :, None], 1),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(1, torch.zeros_like(x, dtype=torch.long), x),
    "scatter into new": lambda x: x.new_zeros(len(x), 14, x.shape[2]).scatter_add_(
        1, torch.arange(12, device=x.device)[None, :, None].expand_as(x), x
    ),
    "scatter_reduce": lambda x: x.scatter_reduce(1, torch.zeros_like(x, dtype=torch.long), x, "amax"),
    "index_add": lambda x: torch.zeros_like(x).index_add(1, torch.arange(12, device=x.device), x),
    "sort": lambda x: x.sort(1)[0],
    "topk": lambda x: x.topk(5, 1)[0],
    "cumsum": lambda x: x.cumsum(1),
    "cummax": lambda x: x.cummax(1)[0],
    "repeat": lambda x: x.repeat(1, 2, 1),
    "tile": lambda x: x.tile(2, 1),
    "repeated over positions": lambda x: x + x.mean(1, keepdim=True).repeat(1, 12, 1),
    "rfft": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1) * (1 + 2j), n=12, dim=1),
    "fft": lambda x: torch.fft.fft(x, dim=1).real,
    "written by parts": lambda x: written_by_parts(x),
}
IMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "grid_sample": lambda x: functional.grid_sample(x, x.new_zeros(len(x), 5, 5, 2), align_corners=False),
    "fold": lambda x: functional.fold(functional.unfold(x, 2, stride=2), x.shape[-2:], 2, stride=2),
    "max_unpool": lambda x: functional.max_unpool2d(*functional.max_pool2d(x, 2, return_indices=True), 2),
    "rfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho"), s=x.shape[-2:], norm="ortho"),
    "normalize": lambda x: functional.normalize(x, dim=1),
}


def written_by_parts(x: Tensor) -> Tensor:
    """Positions moved by one, as a temporal shift moves them."""
    out = torch.zeros(len(x), 12, x.shape[2], device=x.device, dtype=x.dtype)
    out[:, 1:] = x[:, :-1]
    return out


@pytest.mark.parametrize("name", [*SEQUENCES, *IMAGES])
def test_channels_go_through(name: str, cut: Cut) -> None:
    torch.manual_seed(0)
    image = name in IMAGES
    module = Between((SEQUENCES | IMAGES)[name], image=image)
    free, slim = cut(module, torch.randn(1, 3, 8, 8) if image else torch.randn(1, 12, 5))
    assert free == {"a": 8}
    assert slim.b.weight.shape[1] == 5


def test_repeated_channels_go_together(cut: Cut) -> None:
    """The larger of two halves, twice: entries i and i + 4 of both layers are one channel."""
    torch.manual_seed(0)
    module = Between(lambda x: torch.maximum(*x.chunk(2, 1)).repeat(1, 3, 1, 1), image=True, outputs=12)
    free, slim = cut(module, torch.randn(1, 3, 4, 4))
    assert free == {"a": 4}
    assert (slim.a.out_channels, slim.b.in_channels) == (4, 6)


def test_real_and_imaginary_parts_go_together(cut: Cut) -> None:
    def turned(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * 1j).flatten(-2)

    torch.manual_seed(0)
    free, slim = cut(Between(turned, image=False), torch.randn(1, 12, 5))
    assert free == {"a": 4}
    assert slim.a.out_features == 4


def test_shuffled_channels_lose_the_same_places_of_each_group(cut: Cut) -> None:
    torch.manual_seed(0)
    free, slim = cut(Between(lambda x: functional.channel_shuffle(x, 2), image=True), torch.randn(1, 3, 4, 4))
    assert free == {"a": 4}
    assert slim.a.out_channels == 4


class SpectralBranch(nn.Module):
    """FFC: real and imaginary parts of the spectrum are channels of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.f, self.o = nn.Conv2d(3, 8, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        b, _, h, w = x.shape
        f = torch.fft.rfft2(x, norm="ortho")
        f = torch.stack((f.real, f.imag), -1).permute(0, 1, 4, 2, 3).contiguous().view(b, -1, h, w // 2 + 1)
        f = torch.relu(self.f(f)).view(b, -1, 2, h, w // 2 + 1).permute(0, 1, 3, 4, 2).contiguous()
        return self.o(x + torch.fft.irfft2(torch.complex(f[..., 0], f[..., 1]), s=(h, w), norm="ortho"))


def test_a_spectral_branch_is_cut_with_the_stream_it_joins(cut: Cut) -> None:
    torch.manual_seed(0)
    free, slim = cut(SpectralBranch(), torch.randn(1, 3, 6, 6))
    assert free == {"a": 8}
    assert (slim.f.in_channels, slim.f.out_channels, slim.o.in_channels) == (10, 10, 5)
