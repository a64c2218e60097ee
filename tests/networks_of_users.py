"""Networks as users write them, each with what it takes: loaded by path by the tests beside this file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

TAKES = {  # by factory; a user's file has one factory and one example_inputs
    "TwoInputs": lambda: (torch.rand(1, 3, 8, 8), torch.rand(1, 5)),
    "TwoHeads": lambda: torch.rand(1, 3, 8, 8),
    "Signal": lambda: torch.rand(1, 2, 24),
    "Volume": lambda: torch.rand(1, 1, 6, 6, 6),
    "Series": lambda: torch.rand(1, 7, 6),
    "Tokens": lambda: (torch.arange(20).reshape(2, 10), torch.ones(2, 10, dtype=torch.bool)),
}


class TwoInputs(nn.Module):
    """A picture and numbers about it."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.know = nn.Sequential(nn.Linear(5, 12), nn.ReLU())
        self.hidden, self.head = nn.Linear(28, 16), nn.Linear(16, 3)

    def forward(self, picture: Tensor, facts: Tensor) -> Tensor:
        both = torch.cat([self.see(picture), self.know(facts)], 1)
        return self.head(torch.relu(self.hidden(both)))


@dataclass
class Found:
    boxes: Tensor
    scores: Tensor


class TwoHeads(nn.Module):
    """Answers in a dict, one of them a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
        self.boxes, self.scores, self.kind = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 2, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> dict[str, object]:
        x = self.trunk(x)
        return {"found": Found(self.boxes(x), self.scores(x)), "kind": self.kind(x.mean((2, 3)))}


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(2, 16, 5), nn.BatchNorm1d(16), nn.GELU(), nn.Conv1d(16, 16, 3, groups=4), nn.GELU(),
            nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(32, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv3d(1, 12, 3, padding=1), nn.BatchNorm3d(12), nn.Conv3d(12, 12, 3, padding=1)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = nn.functional.max_pool3d(x + self.b(x), 2)
        return self.head(x.mean((2, 3, 4)))


class Series(nn.Module):
    """Layers before and behind an LSTM, whose hidden units go, too."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8))
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.behind = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.lstm(self.before(x))[0][:, -1])


class Tokens(nn.Module):
    """Token ids with a mask: embeddings, learnt positions, one attention layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Parameter(torch.randn(1, 10, 16))
        self.norm, self.heads, self.head_dim = nn.LayerNorm(16), 4, 4
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        seen = mask[:, None, None, :].to(q.dtype).log()
        y = ((q @ k.transpose(-2, -1)) / self.head_dim**0.5 + seen).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, self.heads * self.head_dim))
        return self.head((x + self.mlp(x)).mean(1))
