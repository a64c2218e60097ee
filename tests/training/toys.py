"""A network and a data set that train in an instant."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.core import ModelSpec, one_image
from compressor.data.data_settings import DataSettings
from compressor.data.image_data import ImageData
from compressor.data.open_data import open_data
from compressor.data.splits import InMemorySplit
from compressor.steps.train import Train
from compressor.training.schedules import cosine
from compressor.training.train_settings import OptimizerSettings

SGD = OptimizerSettings("sgd", lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True)
STEP = Train(epochs=3, batch_size=8, optimizer=SGD, schedule=cosine(3), precision="fp32")


def toy_data(count: int = 44, *, augmented: bool = True) -> ImageData:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)
    split = InMemorySplit("toy", images, labels, [f"item {index}" for index in range(count)])
    return ImageData("toy", 4, (0.5,) * 3, (0.25,) * 3, split, split, augment="cifar" if augmented else "none")


def toy_net(dropout: float = 0.3) -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(216, 4),
    )


class Shortcut(nn.Module):
    """Two convolutions that share their channels over a shortcut, one between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12)
        self.inner, self.outer = nn.Conv2d(12, 16, 3, padding=1), nn.Conv2d(16, 12, 1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((x + self.outer(torch.relu(self.inner(x)))).mean((2, 3)))


def few_digits(count: int) -> ImageData:
    """The embedded data with so many images to train on."""
    whole = open_data(DataSettings("digits"), None, ModelSpec("net", one_image((1, 8, 8))), num_classes=10)
    assert isinstance(whole, ImageData)
    return replace(whole, held_out=torch.arange(count, 1500))


def quiet(event: str, fields: Mapping[str, object]) -> None:
    del event, fields


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(each, theirs[name]) for name, each in a.state_dict().items())


class Interrupted(Exception):
    pass


class Halt:
    """A constraint that does nothing until it ends the run."""

    def __init__(self, module: nn.Module, total: int, at: int) -> None:
        self.at = at

    def after_backward(self, iteration: int) -> None:
        pass

    def after_step(self, iteration: int) -> None:
        if iteration == self.at:
            raise Interrupted


class Shrinking:
    """A constraint with a part in each place, that is not linear in the weights."""

    def __init__(self, module: nn.Module, total: int) -> None:
        self._weight = dict(module.named_parameters())["4.weight"]

    def after_backward(self, iteration: int) -> None:
        weight = self._weight.detach()
        self._weight.grad += 0.04 * weight**3 + 0.01 * weight.sign()

    def after_step(self, iteration: int) -> None:
        with torch.no_grad():
            self._weight[:, iteration] = 0


class Dying:
    """A constraint that kills the second process."""

    def __init__(self, module: nn.Module, total: int, *, at: int) -> None:
        self._at = at

    def after_backward(self, iteration: int) -> None:
        if iteration == self._at and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    def after_step(self, iteration: int) -> None:
        pass
