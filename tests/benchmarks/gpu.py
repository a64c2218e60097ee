"""Images per second of training on a GPU: our loop against a bare one, in turn. Under four minutes on one card.

    python tests/benchmarks/gpu.py [--rounds 3] [--seconds 6] [--device cuda] [NAME:SIZE:BATCH ...]

bare: forward in autocast to bfloat16, channels last, fused SGD, batches that lie on the device, nothing read back.
The bar is 0.95 of the bare loop. `--device cpu cifar:resnet20:32:16` shows that the script runs where there is no card.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from compressor.core import ModelSpec, one_image
from compressor.data.image_data import ImageData
from compressor.data.splits import InMemorySplit
from compressor.models.build import build_named
from compressor.steps.train import Train
from compressor.training.distributed.runtime import Runtime
from compressor.training.loop import train
from compressor.training.schedules import constant
from compressor.training.train_settings import OptimizerSettings

CASES = ["torchvision:resnet50:224:128", "torchvision:vit_b_16:224:64", "cifar:resnet56:32:128"]
CLASSES, WARM = 10, 5  # iterations
SGD = OptimizerSettings("sgd", lr=0.001, momentum=0.9, weight_decay=5e-4)


class Over(Exception):
    """The time is up."""


class Clock:
    """Lets batches through until the time is up, and counts those after the first."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.seconds, self.rate = device, seconds, 0.0

    def __call__(self, batches: Iterator[Any], images: int) -> Iterator[Any]:
        start = 0.0
        for count, batch in enumerate(batches):
            if count == WARM:
                start = self._now()
            if count > WARM and time.perf_counter() - start > self.seconds:
                self.rate = (count - WARM) * images / (self._now() - start)
                raise Over
            yield batch

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def network(name: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = build_named(ModelSpec(name, one_image((3, size, size)), CLASSES))
    return module


def images(size: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4 * batch, 3, size, size), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(0, CLASSES, (4 * batch,), generator=generator)


def ours(name: str, size: int, batch: int, clock: Clock) -> None:
    pixels, labels = images(size, batch)
    split = InMemorySplit("noise", pixels, labels, [""] * len(pixels))
    mean_and_std = (0.5,) * 3, (0.25,) * 3

    class Endless(ImageData):
        @property
        def train_size(self) -> int:
            return 1 << 40  # one epoch for ever

        def train_batches(self, batch_size: int, *, epoch: int, seed: int, **where: Any) -> Iterator[Any]:
            whole = ImageData("noise", CLASSES, *mean_and_std, split, split, augment="none")
            epochs = (whole.train_batches(batch_size, epoch=index, seed=seed) for index in itertools.count())
            return clock(itertools.chain.from_iterable(epochs), batch)

    data = Endless("noise", CLASSES, *mean_and_std, split, split, augment="none")
    step = Train(epochs=1, batch_size=batch, optimizer=SGD, schedule=constant(), precision="bf16")
    runtime = Runtime(Fabric(accelerator=clock.device.type, devices=1))
    train(network(name, size), data, step, seed=0, emit=lambda _event, _fields: None, runtime=runtime)


def bare(name: str, size: int, batch: int, clock: Clock) -> None:
    module = network(name, size).train().to(clock.device, memory_format=torch.channels_last)
    pixels, labels = images(size, batch)
    inputs = (pixels.float() / 128 - 1).to(clock.device, memory_format=torch.channels_last).split(batch)
    targets = labels.to(clock.device).split(batch)
    optimizer = torch.optim.SGD(module.parameters(), lr=SGD.lr, momentum=0.9, weight_decay=5e-4, fused=True)
    for x, y in clock(itertools.cycle(zip(inputs, targets, strict=True)), batch):
        with torch.autocast(clock.device.type, torch.bfloat16):
            logits = module(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def rate(loop: Any, case: str, device: torch.device, seconds: float) -> float:
    name, size, batch = case.rsplit(":", 2)
    clock = Clock(device, seconds)
    try:
        loop(name, int(size), int(batch), clock)
    except Over:
        return clock.rate
    raise AssertionError("a loop ended by itself")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each loop in each round")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("cases", nargs="*", default=CASES, metavar="NAME:SIZE:BATCH")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here")
    print(torch.cuda.get_device_name() if device.type == "cuda" else "CPU", f"torch {torch.__version__}", sep=", ")
    for case in arguments.cases:
        pairs = [
            [rate(loop, case, device, arguments.seconds) for loop in (ours, bare)[:: 1 - 2 * (index % 2)]]
            for index in range(arguments.rounds)
        ]
        rates = [pair[:: 1 - 2 * (index % 2)] for index, pair in enumerate(pairs)]
        middle = [statistics.median(values) for values in zip(*rates, strict=True)]
        ratio = statistics.median(our / other for our, other in rates)
        print(f"{case}  ours {middle[0]:.0f}, bare {middle[1]:.0f} images/s, ours / bare {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
