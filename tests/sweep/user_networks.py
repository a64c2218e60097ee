"""Small networks as people write them in tutorials and issues, with the shapes of one batch of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class UNet(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = self._twice(3, 16), self._twice(16, 32), self._twice(32, 64)
        self.up2, self.up1 = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.right2, self.right1, self.last = self._twice(64, 32), self._twice(32, 16), nn.Conv2d(16, 2, 1)

    def _twice(self, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv(inputs, outputs), conv(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.up2(self.bottom(F.max_pool2d(second, 2)))
        x = F.pad(x, [0, second.size(3) - x.size(3), 0, second.size(2) - x.size(2)])
        x = self.up1(self.right2(torch.cat([second, x], dim=1)))
        return self.last(self.right1(torch.cat((first, x), 1)))


class DCGenerator(nn.Module):
    SHAPES = ((2, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(32, 64 * 4 * 4)
        self.main = nn.Sequential(
            nn.BatchNorm2d(64), nn.ReLU(True), nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32),
            nn.ReLU(True), nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
            nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        return self.main(self.project(z).view(-1, 64, 4, 4))


class SpectralDiscriminator(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [parametrizations.spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.main, self.fc = nn.Sequential(*layers), parametrizations.spectral_norm(nn.Linear(64 * 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.main(x).flatten(1))


class Capsules(nn.Module):
    SHAPES = ((2, 1, 20, 20),)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.primary = nn.Conv2d(1, 32, 9), nn.Conv2d(32, 64, 5, 2)
        self.hidden = nn.Linear(64 * 16, 64)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(F.relu(self.first(x)))
        x = x.view(x.size(0), 8, 8, 4, 4).permute(0, 1, 3, 4, 2).reshape(x.size(0), -1, 8)
        squared = (x**2).sum(-1, keepdim=True)
        x = squared / (1 + squared) * x / (squared.sqrt() + 1e-8)
        return self.fc(F.relu(self.hidden(x.flatten(1))))


class Siamese(nn.Module):
    SHAPES = ((2, 3, 32, 32), (2, 3, 32, 32))

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(conv(3, 16), nn.MaxPool2d(2), conv(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.embed, self.fc = nn.Linear(32, 64), nn.Linear(64, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sigmoid(self.fc(torch.abs(self.embed(self.net(a)) - self.embed(self.net(b)))))


class Triplet(nn.Module):
    SHAPES = ((2, 3, 32, 32), (2, 3, 32, 32), (2, 3, 32, 32))

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(conv(3, 16), conv(16, 32, stride=2), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.fc = nn.Sequential(nn.Linear(512, 64), nn.PReLU(64), nn.Linear(64, 16))

    def forward(self, a: Tensor, p: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, p, n = torch.split(F.normalize(self.fc(self.net(torch.cat([a, p, n]))), dim=1), a.shape[0])
        return a, p, n


class MultiTask(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(3, 32), conv(32, 64, stride=2))
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, size))
                for name, size in (("age", 1), ("sex", 2))
            }
        )
        self.mask = nn.Sequential(conv(64, 16), nn.Conv2d(16, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.trunk(x)
        pooled = x.mean([2, 3])
        return {name: head(pooled) for name, head in self.heads.items()} | {"mask": self.mask(x)}


class PixelShuffleSR(nn.Module):
    SHAPES = ((2, 3, 16, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 32, 9, padding=4), nn.Conv2d(32, 3, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.PReLU(), nn.Conv2d(32, 32, 3, padding=1)
            )
            for _ in range(2)
        )
        self.up = nn.Sequential(nn.Conv2d(32, 128, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.head(x)
        for block in self.body:
            x = x + 0.1 * block(x)
        return self.tail(self.up(x + first))


class ShuffleUnit(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32, stride=2)
        self.branch = nn.Sequential(
            conv(16, 16, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16), conv(16, 16, 1)
        )
        self.grouped, self.fc = nn.Conv2d(32, 64, 1, groups=4), nn.Linear(64, 10)

    def _shuffle(self, x: Tensor, groups: int) -> Tensor:
        batch, channels, height, width = x.data.size()
        x = x.view(batch, groups, channels // groups, height, width)
        return torch.transpose(x, 1, 2).contiguous().view(batch, -1, height, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = x.chunk(2, dim=1)
        x = self._shuffle(torch.cat((left, self.branch(right)), dim=1), 2)
        x = self._shuffle(F.relu(self.grouped(x)), 4)
        return self.fc(x.mean((2, 3)))


class SqueezeExcite(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 32), conv(32, 64)
        self.se = nn.Sequential(
            nn.Linear(64, 64 // 8, bias=False), nn.ReLU(), nn.Linear(8, 64, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Conv2d(64, 1, 1)
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.c, self.fc = conv(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        b, c, _, _ = x.size()
        channels = x * self.se(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1).expand_as(x)
        x = torch.max(channels, x * self.spatial(x).sigmoid())
        x = self.c(x)
        return self.fc(F.adaptive_max_pool2d(x, 1).squeeze(-1).squeeze(-1))


class ECANet(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 32), conv(32, 64), nn.Linear(64, 10)
        self.pool, self.eca = nn.AdaptiveAvgPool2d(1), nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.eca(self.pool(x).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        x = self.b(x * torch.sigmoid(y).expand_as(x))
        return self.fc(torch.flatten(self.pool(x), 1))


class CBAM(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 32), conv(32, 64), nn.Linear(64, 10)
        self.mlp = nn.Sequential(nn.Conv2d(32, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 32, 1, bias=False))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x * torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
        mean, most = torch.mean(x, dim=1, keepdim=True), torch.max(x, dim=1, keepdim=True)[0]
        x = x * torch.sigmoid(self.spatial(torch.cat([mean, most], dim=1)))
        return self.fc(self.b(x).mean((-2, -1)))


class ASPP(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 32, stride=2), conv(32, 32))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(32, 32, 3, padding=rate, dilation=rate, bias=False), nn.BatchNorm2d(32), nn.ReLU())
            for rate in (1, 2, 4)
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1), nn.ReLU())
        self.project, self.last = conv(128, 32, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = self.stem(x)
        pooled = F.interpolate(self.pool(x), size=x.shape[2:], mode="bilinear", align_corners=False)
        x = self.last(self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], 1)))
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class FPN(nn.Module):
    SHAPES = ((2, 3, 64, 64),)

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64)
        self.stages = nn.ModuleList(conv(a, b, stride=2) for a, b in zip((3, *widths), widths, strict=False))
        self.lateral = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in widths)
        self.cls, self.box = nn.Conv2d(32, 2 * 3, 3, padding=1), nn.Conv2d(32, 2 * 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        top = self.lateral[-1](maps[-1])
        levels = [top]
        for lateral, feature in zip(reversed(self.lateral[:-1]), reversed(maps[:-1]), strict=True):
            top = F.interpolate(top, scale_factor=2, mode="nearest") + lateral(feature)
            levels.insert(0, top)
        levels = [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
        scores = [self.cls(level).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 3) for level in levels]
        boxes = [self.box(level).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for level in levels]
        return torch.cat(scores, 1), torch.cat(boxes, 1)


class TCN(nn.Module):
    SHAPES = ((2, 8, 40),)

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
            super().__init__()
            self.pad = 2 * dilation
            self.a = weight_norm(nn.Conv1d(inputs, outputs, 3, padding=self.pad, dilation=dilation))
            self.b = weight_norm(nn.Conv1d(outputs, outputs, 3, padding=self.pad, dilation=dilation))
            self.down = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.a(x)[:, :, : -self.pad].contiguous())
            y = F.relu(self.b(y)[:, :, : -self.pad])
            return F.relu(y + (x if self.down is None else self.down(x)))

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(self.Block(8, 32, 1), self.Block(32, 32, 2), self.Block(32, 64, 4))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.fc(self.net(x)[:, :, -1]), dim=1)


class WaveNet(nn.Module):
    SHAPES = ((2, 1, 64),)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 32, 1)
        self.gates = nn.ModuleList(nn.Conv1d(32, 64, 2, dilation=2**i) for i in range(3))
        self.mixers = nn.ModuleList(nn.Conv1d(32, 64, 1) for _ in range(3))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(32, 32, 1), nn.ReLU(), nn.Conv1d(32, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        skips: Tensor | float = 0.0
        for index, (gate, mixer) in enumerate(zip(self.gates, self.mixers, strict=True)):
            a, b = gate(F.pad(x, (2**index, 0))).chunk(2, dim=1)
            residual, skip = torch.split(mixer(torch.tanh(a) * torch.sigmoid(b)), 32, dim=1)
            x, skips = (x + residual) * math.sqrt(0.5), skips + skip
        return self.last(skips)


class Conformer(nn.Module):
    SHAPES = ((2, 20, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 32)
        self.ff = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 32))
        self.norm, self.attention = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.conv_norm, self.pointwise = nn.LayerNorm(32), nn.Conv1d(32, 64, 1)
        self.depthwise, self.bn = nn.Conv1d(32, 32, 7, padding=3, groups=32), nn.BatchNorm1d(32)
        self.out, self.last, self.fc = nn.Conv1d(32, 32, 1), nn.LayerNorm(32), nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        x = x + 0.5 * self.ff(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = F.glu(self.pointwise(self.conv_norm(x).transpose(1, 2)), dim=1)
        x = x + self.out(F.silu(self.bn(self.depthwise(y)))).transpose(1, 2)
        return self.fc(self.last(x)).log_softmax(-1)


class GRUAttention(nn.Module):
    SHAPES = ((2, 12, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(16, 32, 2, batch_first=True, bidirectional=True)
        self.score, self.value = nn.Linear(64, 32), nn.Linear(32, 1, bias=False)
        self.fc = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(x)
        weights = torch.softmax(self.value(torch.tanh(self.score(states))), dim=1)
        return self.fc((weights * states).sum(dim=1))


class LSTMTagger(nn.Module):
    SHAPES = ((2, 12),)
    VOCABULARY = 50

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32, padding_idx=0)
        self.lstm, self.fc = nn.LSTM(32, 64, batch_first=True, bidirectional=True), nn.Linear(128, 9)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(F.dropout(self.lstm(self.embedding(ids))[0], 0.5, self.training))


class Seq2Seq(nn.Module):
    SHAPES = ((7, 2), (5, 2))
    VOCABULARY = 40
    BATCH_DIM = 1

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(40, 24), nn.Embedding(40, 24)
        self.encoder, self.decoder = nn.LSTM(24, 48, 2), nn.LSTM(24, 48, 2)
        self.fc = nn.Linear(48, 40)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _, state = self.encoder(self.source(source))
        output, _ = self.decoder(self.target(target), state)
        return self.fc(output)


class CRNN(nn.Module):
    """A recogniser of text lines."""

    SHAPES = ((2, 1, 32, 64),)

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            conv(1, 16), nn.MaxPool2d(2), conv(16, 32), nn.MaxPool2d(2), conv(32, 48), nn.MaxPool2d((2, 1)),
            conv(48, 48), nn.MaxPool2d((2, 1)), nn.Conv2d(48, 48, (2, 1)), nn.ReLU(),
        )  # fmt: skip
        self.rnn1, self.between = nn.LSTM(48, 32, bidirectional=True), nn.Linear(64, 32)
        self.rnn2, self.fc = nn.LSTM(32, 32, bidirectional=True), nn.Linear(64, 37)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cnn(x)
        assert x.size(2) == 1, "the height must be 1"
        x = x.squeeze(2).permute(2, 0, 1)
        x, _ = self.rnn1(x)
        steps, batch, width = x.size()
        x = self.between(x.view(steps * batch, width)).view(steps, batch, -1)
        return self.fc(self.rnn2(x)[0]).permute(1, 0, 2)


class PointNet(nn.Module):
    SHAPES = ((2, 3, 50),)

    def __init__(self) -> None:
        super().__init__()
        self.t1, self.t2, self.t3 = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 32, 1), nn.Linear(32, 9)
        self.a, self.b, self.c = nn.Conv1d(3, 32, 1), nn.Conv1d(32, 64, 1), nn.Conv1d(64, 128, 1)
        self.n1, self.n2, self.n3 = nn.BatchNorm1d(32), nn.BatchNorm1d(64), nn.BatchNorm1d(128)
        self.fc1, self.fc2, self.seg = nn.Linear(128, 64), nn.Linear(64, 10), nn.Conv1d(160, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.max(F.relu(self.t2(F.relu(self.t1(x)))), 2, keepdim=True)[0].view(-1, 32)
        t = self.t3(t) + torch.eye(3).flatten()
        x = torch.bmm(x.transpose(2, 1), t.view(-1, 3, 3)).transpose(2, 1)
        local = F.relu(self.n1(self.a(x)))
        x = self.n3(self.c(F.relu(self.n2(self.b(local)))))
        best = torch.max(x, 2, keepdim=True)[0]
        spread = best.repeat(1, 1, local.size(2))
        return self.fc2(F.relu(self.fc1(best.view(-1, 128)))), self.seg(torch.cat([local, spread], 1))


class C3D(nn.Module):
    SHAPES = ((2, 3, 8, 24, 24),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(3, 16, 3, padding=1), nn.Conv3d(16, 32, 3, padding=1)
        self.spatial = nn.Conv3d(32, 32, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.time, self.bn = nn.Conv3d(32, 32, (3, 1, 1), padding=(1, 0, 0), bias=False), nn.BatchNorm3d(32)
        self.fc1, self.fc2 = nn.Linear(32 * 2 * 3 * 3, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.a(x)), (1, 2, 2))
        x = F.max_pool3d(F.relu(self.b(x)), 2)
        x = F.max_pool3d(F.relu(self.bn(self.time(self.spatial(x))) + x), 2)
        return self.fc2(F.relu(self.fc1(x.view(-1, 32 * 2 * 3 * 3))))


class GCN(nn.Module):
    SHAPES = ((2, 10, 16), (2, 10, 10))

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(16, 32) / 4), nn.Parameter(torch.randn(32, 32) / 6)
        self.b1, self.fc = nn.Parameter(torch.zeros(32)), nn.Linear(32, 7)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        degree = adjacency.abs().sum(-1).clamp(min=1e-6).pow(-0.5)
        adjacency = degree.unsqueeze(-1) * adjacency * degree.unsqueeze(-2)
        x = F.relu(torch.matmul(adjacency, torch.matmul(x, self.w1)) + self.b1)
        x = F.elu(adjacency @ (x @ self.w2))
        return self.fc(x)


class EinsumAttention(nn.Module):
    SHAPES = ((2, 10, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.out = nn.Linear(32, 96, bias=False), nn.Linear(32, 32)
        self.ff1, self.ff2 = nn.Linear(32, 128), nn.Linear(128, 32)
        self.n1, self.n2, self.fc = nn.LayerNorm(32), nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.n1(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.einsum("b h i d, b h j d -> b h i j", q, k) * q.shape[-1] ** -0.5
        y = torch.einsum("bhij,bhjd->bhid", weights.softmax(dim=-1), v)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, -1))
        return self.fc((x + self.ff2(F.gelu(self.ff1(self.n2(x))))).mean(1))


class LinearAttention(nn.Module):
    """Attention over positions of a feature map, with softmax over channels and over positions."""

    SHAPES = ((2, 3, 16, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = conv(3, 32, stride=2), nn.Conv2d(32, 96, 1, bias=False)
        self.out, self.norm = nn.Conv2d(32, 32, 1), nn.GroupNorm(1, 32)
        self.mid, self.last = conv(32, 64), nn.Conv2d(64, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        q, k, v = (t.reshape(b, 4, c // 4, h * w) for t in self.qkv(self.norm(x)).chunk(3, dim=1))
        q, k = q.softmax(dim=-2) * (c // 4) ** -0.5, k.softmax(dim=-1)
        context = torch.einsum("b h d n, b h e n -> b h d e", k, v)
        y = torch.einsum("b h d e, b h d n -> b h e n", context, q).reshape(b, c, h, w)
        return self.last(self.mid(x + self.out(y)))


class MixtureOfExperts(nn.Module):
    SHAPES = ((2, 6, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(32, 4, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(4))
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = torch.topk(F.softmax(self.gate(flat), dim=-1), 2)
        weights = weights / weights.sum(-1, keepdim=True)
        scores = torch.zeros(flat.shape[0], 4).scatter(1, chosen, weights)
        result = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            result = result + scores[:, index : index + 1] * expert(flat)
        return self.fc((result + flat).view(x.shape))


class KAN(nn.Module):
    """Layers whose edges are radial functions."""

    SHAPES = ((4, 8),)

    class Layer(nn.Module):
        def __init__(self, inputs: int, outputs: int, knots: int = 5) -> None:
            super().__init__()
            self.base = nn.Parameter(torch.randn(outputs, inputs) / math.sqrt(inputs))
            self.spline = nn.Parameter(torch.randn(outputs, inputs, knots) / math.sqrt(inputs * knots))
            self.register_buffer("grid", torch.linspace(-1, 1, knots))

        def forward(self, x: Tensor) -> Tensor:
            basis = torch.exp(-(((x.unsqueeze(-1) - self.grid) / 0.5) ** 2))
            spline = F.linear(basis.view(x.size(0), -1), self.spline.view(self.spline.size(0), -1))
            return F.linear(F.silu(x), self.base) + spline

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([self.Layer(8, 32), self.Layer(32, 32), self.Layer(32, 3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Mixer(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.n1, self.n2, self.n3 = nn.LayerNorm(32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.tokens = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.channels = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.n1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.n2(x))
        return self.fc(self.n3(x).mean(dim=1))


class RepVGG(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
            super().__init__()
            self.dense = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs)
            )
            self.one = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, 0, groups=groups, bias=False), nn.BatchNorm2d(outputs)
            )
            self.identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

        def forward(self, x: Tensor) -> Tensor:
            identity = 0 if self.identity is None else self.identity(x)
            return F.relu(self.dense(x) + self.one(x) + identity)

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            self.Block(3, 16, 2), self.Block(16, 32, 2), self.Block(32, 32), self.Block(32, 64, 2)
        )
        self.gap, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gap(self.stages(x))
        return self.fc(x.view(x.size(0), -1))


class MobileOne(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32, stride=2)
        self.depth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.BatchNorm2d(32)) for _ in range(3)
        )
        self.skip, self.point = nn.BatchNorm2d(32), nn.ModuleList(nn.Conv2d(32, 64, 1) for _ in range(2))
        self.bn, self.fc = nn.BatchNorm2d(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(sum(branch(x) for branch in self.depth) + self.skip(x))
        x = F.relu(self.bn(sum(branch(x) for branch in self.point)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class GhostNet(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    class Ghost(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.outputs, half = outputs, math.ceil(outputs / 2)
            self.primary = conv(inputs, half, 1)
            self.cheap = conv(half, half, 3, groups=half)

        def forward(self, x: Tensor) -> Tensor:
            x = self.primary(x)
            return torch.cat([x, self.cheap(x)], dim=1)[:, : self.outputs, :, :]

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 16, stride=2), self.Ghost(16, 48), self.Ghost(48, 16)
        self.c, self.fc = self.Ghost(16, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b(self.a(x))
        return self.fc(self.c(x).mean((2, 3)))


class SplitAttention(nn.Module):
    """ResNeSt: softmax over the radix."""

    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.split = conv(3, 32, stride=2), conv(32, 64, groups=2)
        self.fc1, self.bn, self.fc2 = nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 64, 1)
        self.last, self.fc = conv(32, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.split(self.stem(x))
        parts = torch.split(x, 32, dim=1)
        gap = F.adaptive_avg_pool2d(sum(parts), 1)
        attention = (
            self.fc2(F.relu(self.bn(self.fc1(gap)))).view(x.size(0), 2, 32).softmax(dim=1).view(x.size(0), -1, 1, 1)
        )
        x = sum(a * part for a, part in zip(torch.split(attention, 32, dim=1), parts, strict=True))
        return self.fc(self.last(x).mean((2, 3)))


class DenseNet(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16 + 12 * i), nn.ReLU(), nn.Conv2d(16 + 12 * i, 12, 3, padding=1))
            for i in range(3)
        )
        self.transition, self.fc = nn.Sequential(nn.BatchNorm2d(52), nn.ReLU(), nn.Conv2d(52, 26, 1)), nn.Linear(26, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.fc(self.transition(torch.cat(features, 1)).mean((2, 3)))


class Inception(nn.Module):
    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32, stride=2)
        self.a, self.b = conv(32, 16, 1), nn.Sequential(conv(32, 16, 1), conv(16, 24))
        self.c = nn.Sequential(conv(32, 8, 1), conv(8, 16, 5))
        self.d = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(32, 8, 1))
        self.mid, self.fc = conv(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([branch(x) for branch in (self.a, self.b, self.c, self.d)], 1)
        return self.fc(torch.amax(self.mid(x), dim=(2, 3)))


class NonLocal(nn.Module):
    SHAPES = ((2, 3, 16, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = conv(3, 32), 16
        self.theta, self.phi, self.g = nn.Conv2d(32, 16, 1), nn.Conv2d(32, 16, 1), nn.Conv2d(32, 16, 1)
        self.out, self.gamma, self.last = (
            nn.Conv2d(16, 32, 1),
            nn.Parameter(torch.ones(1)),
            nn.Conv2d(32, 4, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, _, h, w = x.shape
        theta = self.theta(x).view(b, self.inner, -1).permute(0, 2, 1)
        weights = torch.softmax(torch.bmm(theta, self.phi(x).view(b, self.inner, -1)), -1)
        y = torch.bmm(weights, self.g(x).view(b, self.inner, -1).permute(0, 2, 1)).permute(0, 2, 1).contiguous()
        return self.last(x + self.gamma * self.out(y.view(b, self.inner, h, w)))


class VAE(nn.Module):
    SHAPES = ((2, 1, 28, 28),)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.mu, self.logvar, self.fc = nn.Linear(1568, 8), nn.Linear(1568, 8), nn.Linear(8, 1568)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 3, 2, 1, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x).view(x.size(0), -1)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return self.decoder(self.fc(z).view(-1, 32, 7, 7)), mu, logvar


class StyleBlock(nn.Module):
    """A generator whose styles scale channels, with noise by position."""

    SHAPES = ((2, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2))
        self.constant = nn.Parameter(torch.randn(1, 32, 4, 4))
        self.style1, self.style2 = nn.Linear(32, 64), nn.Linear(32, 32)
        self.conv1, self.conv2, self.rgb = (
            nn.Conv2d(32, 32, 3, padding=1),
            nn.Conv2d(32, 16, 3, padding=1),
            nn.Conv2d(16, 3, 1),
        )
        self.norm1, self.norm2 = nn.InstanceNorm2d(32), nn.InstanceNorm2d(16)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z)
        x = self.norm1(self.conv1(self.constant.repeat(z.shape[0], 1, 1, 1)))
        scale, shift = self.style1(w).view(-1, 2, 32, 1, 1).unbind(1)
        x = F.interpolate(F.leaky_relu(x * (scale + 1) + shift, 0.2), scale_factor=2)
        scale, shift = self.style2(w).chunk(2, 1)
        x = self.norm2(self.conv2(x)) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return torch.tanh(self.rgb(F.leaky_relu(x, 0.2)))


class FiLM(nn.Module):
    SHAPES = ((2, 3, 16, 16), (2, 8))

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 5)
        self.condition = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = self.b(x)
        gamma, beta = torch.split(self.condition(c), x.size(1), dim=-1)
        x = F.relu(x * gamma.unsqueeze(2).unsqueeze(3) + beta.unsqueeze(2).unsqueeze(3))
        return self.last(x.mean((2, 3)))


class DDPMUNet(nn.Module):
    """A denoiser with sinusoidal embedding of time."""

    SHAPES = ((2, 3, 16, 16), (2,))

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.first, self.down = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 4, 2, 1)
        self.shift1, self.shift2 = nn.Linear(32, 32), nn.Linear(32, 64)
        self.n1, self.n2 = nn.GroupNorm(8, 32), nn.GroupNorm(8, 64)
        self.mid, self.up, self.last = (
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ConvTranspose2d(64, 32, 4, 2, 1),
            nn.Conv2d(64, 3, 3, padding=1),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        steps = torch.exp(torch.arange(8) * (-math.log(10000.0) / 7)).to(t.device)
        angles = t[:, None] * steps[None, :]
        t = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        skip = F.silu(self.n1(self.first(x))) + self.shift1(t)[..., None, None]
        x = self.down(skip)
        x = x + self.mid(F.silu(self.n2(x) + self.shift2(t)[:, :, None, None]))
        return self.last(torch.cat((self.up(x), skip), dim=1))


class MaskedTransformer(nn.Module):
    """A small GPT with causal mask, written out."""

    SHAPES = ((2, 10),)
    VOCABULARY = 40

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(40, 32), nn.Embedding(16, 32)
        self.heads = 4
        self.key, self.query, self.value, self.proj = (nn.Linear(32, 32) for _ in range(4))
        self.ln1, self.ln2, self.ln3 = nn.LayerNorm(32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32), nn.Dropout(0.1))
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.tokens.weight
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16))

    def forward(self, ids: Tensor) -> Tensor:
        b, t = ids.size()
        x = self.tokens(ids) + self.positions(torch.arange(0, t, device=ids.device).unsqueeze(0))
        y = self.ln1(x)
        c = y.size(-1)
        k = self.key(y).view(b, t, self.heads, c // self.heads).transpose(1, 2)
        q = self.query(y).view(b, t, self.heads, c // self.heads).transpose(1, 2)
        v = self.value(y).view(b, t, self.heads, c // self.heads).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = F.softmax(att.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf")), dim=-1)
        x = x + self.proj((att @ v).transpose(1, 2).contiguous().view(b, t, c))
        return self.head(self.ln3(x + self.mlp(self.ln2(x))))


class RMSSwiGLU(nn.Module):
    """A block as in Llama, written out: RMSNorm, rotary embedding, SwiGLU."""

    SHAPES = ((2, 10),)
    VOCABULARY = 40

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.g1, self.g2 = nn.Embedding(40, 32), nn.Parameter(torch.ones(32)), nn.Parameter(torch.ones(32))
        self.wq, self.wk, self.wv = nn.Linear(32, 32, False), nn.Linear(32, 16, False), nn.Linear(32, 16, False)
        self.wo, self.w1, self.w2, self.w3 = (
            nn.Linear(32, 32, False),
            nn.Linear(32, 96, False),
            nn.Linear(96, 32, False),
            nn.Linear(32, 96, False),
        )
        self.out = nn.Linear(32, 40, False)
        angles = torch.outer(torch.arange(16).float(), 1.0 / 10000 ** (torch.arange(0, 8, 2) / 8))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def _norm(self, x: Tensor, gain: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * gain

    def _rotate(self, x: Tensor) -> Tensor:
        cos, sin = self.cos[: x.shape[1], None], self.sin[: x.shape[1], None]
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(3)

    def forward(self, ids: Tensor) -> Tensor:
        b, t = ids.shape
        x = self.tokens(ids)
        y = self._norm(x, self.g1)
        q, k = self._rotate(self.wq(y).view(b, t, 4, 8)), self._rotate(self.wk(y).view(b, t, 2, 8))
        v = self.wv(y).view(b, t, 2, 8)
        k, v = k.repeat_interleave(2, dim=2), v.repeat_interleave(2, dim=2)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + self.wo(y.transpose(1, 2).reshape(b, t, -1))
        y = self._norm(x, self.g2)
        return self.out(x + self.w2(F.silu(self.w1(y)) * self.w3(y)))


class WindowAttention(nn.Module):
    SHAPES = ((2, 3, 16, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.qkv, self.proj = (
            nn.Conv2d(3, 32, 2, 2),
            nn.LayerNorm(32),
            nn.Linear(32, 96),
            nn.Linear(32, 32),
        )
        self.heads, self.scale = 4, 8**-0.5
        self.bias = nn.Parameter(torch.randn(4, 16, 16) * 0.02)
        self.mlp, self.fc = (
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32)),
            nn.Linear(32, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), shifts=(-2, -2), dims=(1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 16, c)
        qkv = self.qkv(y).reshape(y.shape[0], 16, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        y = (
            ((q @ k.transpose(-2, -1) + self.bias.unsqueeze(0)).softmax(-1) @ v)
            .transpose(1, 2)
            .reshape(y.shape[0], 16, -1)
        )
        y = self.proj(y).view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, shifts=(2, 2), dims=(1, 2))
        return self.fc((x + self.mlp(x)).mean((1, 2)))


class TwoTower(nn.Module):
    """A recommender: embeddings of two kinds of ids, a dot product beside a deep part."""

    SHAPES = ((4, 2),)
    VOCABULARY = 30

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(30, 16), nn.Embedding(30, 16)
        self.deep = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.fc = nn.Linear(33, 1)

    def forward(self, ids: Tensor) -> Tensor:
        user, item = self.user(ids[:, 0]), self.item(ids[:, 1])
        product = (user * item).sum(1, keepdim=True)
        return torch.sigmoid(self.fc(torch.cat([product, self.deep(torch.cat([user, item], -1))], -1))).squeeze(-1)


class TextCNN(nn.Module):
    SHAPES = ((2, 20),)
    VOCABULARY = 50

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 24)
        self.convs = nn.ModuleList(nn.Conv2d(1, 32, (size, 24)) for size in (3, 4, 5))
        self.fc = nn.Linear(96, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).unsqueeze(1)
        pooled = [F.relu(layer(x)).squeeze(3) for layer in self.convs]
        return self.fc(torch.cat([F.max_pool1d(one, one.size(2)).squeeze(2) for one in pooled], 1))


class DuelingDQN(nn.Module):
    SHAPES = ((2, 4, 42, 42),)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU())
        size = int(torch.prod(torch.tensor(self.features(torch.zeros(1, 4, 42, 42)).shape[1:])))
        self.advantage = nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 6))
        self.value = nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x / 255.0).reshape(x.shape[0], -1)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(1, keepdim=True)


class BilinearCNN(nn.Module):
    SHAPES = ((2, 3, 24, 24),)

    def __init__(self) -> None:
        super().__init__()
        self.net, self.fc = nn.Sequential(conv(3, 32), conv(32, 16, stride=2)), nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x)
        n, c, h, w = x.size()
        x = x.view(n, c, h * w)
        x = (torch.bmm(x, x.transpose(1, 2)) / (h * w)).view(n, -1)
        return self.fc(F.normalize(torch.sign(x) * torch.sqrt(x.abs() + 1e-5)))


class Maxout(nn.Module):
    SHAPES = ((2, 3, 24, 24),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        first, second = torch.split(x, x.size(1) // 2, 1)
        x = self.b(torch.max(first, second))
        x = x.view(x.size(0), x.size(1) // 2, 2, *x.shape[2:]).max(dim=2).values
        return self.fc(x.mean((2, 3)))


class Octave(nn.Module):
    """High and low frequencies, with pooling and upsampling between them."""

    SHAPES = ((2, 3, 32, 32),)

    def __init__(self) -> None:
        super().__init__()
        self.h, self.l = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
        self.hh, self.hl = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.ll, self.lh, self.fc = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        high, low = F.relu(self.h(x)), F.relu(self.l(F.avg_pool2d(x, 2)))
        new_high = F.relu(self.hh(high) + F.interpolate(self.lh(low), scale_factor=2, mode="nearest"))
        new_low = F.relu(self.ll(low) + self.hl(F.avg_pool2d(high, 2)))
        return self.fc(torch.cat([new_high.mean((2, 3)), new_low.mean((2, 3))], 1))


class STNet(nn.Module):
    """A spatial transformer before a classifier."""

    SHAPES = ((2, 1, 28, 28),)

    def __init__(self) -> None:
        super().__init__()
        self.localization = nn.Sequential(
            nn.Conv2d(1, 8, 7),
            nn.MaxPool2d(2, 2),
            nn.ReLU(True),
            nn.Conv2d(8, 10, 5),
            nn.MaxPool2d(2, 2),
            nn.ReLU(True),
        )
        self.fc_loc = nn.Sequential(nn.Linear(90, 32), nn.ReLU(True), nn.Linear(32, 6))
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 5), nn.Conv2d(16, 32, 5)
        self.drop, self.fc1, self.fc2 = nn.Dropout2d(), nn.Linear(512, 50), nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.fc_loc(self.localization(x).view(-1, 90)).view(-1, 2, 3)
        x = F.grid_sample(x, F.affine_grid(theta, list(x.size()), align_corners=False), align_corners=False)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2))
        return F.log_softmax(self.fc2(F.dropout(F.relu(self.fc1(x.view(-1, 512))), training=self.training)), dim=1)


class LSTMCellLoop(nn.Module):
    SHAPES = ((2, 6, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 32
        self.cell, self.fc = nn.LSTMCell(16, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), self.hidden_size)
        c = torch.zeros(x.size(0), self.hidden_size)
        for step in range(x.size(1)):
            h, c = self.cell(x[:, step], (h, c))
        return self.fc(h)


class ConvLSTM(nn.Module):
    SHAPES = ((2, 3, 3, 16, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.hidden_dim = 16
        self.gates, self.last = nn.Conv2d(3 + 16, 64, 3, padding=1), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, steps, _, height, width = x.size()
        h = c = torch.zeros(b, self.hidden_dim, height, width, device=x.device)
        for step in range(steps):
            i, f, o, g = torch.split(self.gates(torch.cat([x[:, step], h], dim=1)), self.hidden_dim, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.last(h)


NETWORKS = tuple(
    name for name, value in list(globals().items()) if isinstance(value, type) and hasattr(value, "SHAPES")
)


def network_of_users(name: str) -> tuple[nn.Module, Sequence[Tensor]]:
    """Build a network with random weights and one batch of its inputs."""
    cls = globals()[name]
    vocabulary = getattr(cls, "VOCABULARY", None)
    torch.manual_seed(0)
    module = cls().eval()
    inputs = [torch.randn(shape) if vocabulary is None else torch.randint(1, vocabulary, shape) for shape in cls.SHAPES]
    return module, inputs
