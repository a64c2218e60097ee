"""Images per second of training networks, dense and slim: our loop, a bare one, and a plain one, in turn, in one run.

    python tests/benchmarks/train_speed.py [--rounds 6] [--threads 2] [--forms slim dense] [NAME ...]

bare     forward, backward, step on batches that lie in memory, normalised: in our arithmetic and layout, with freed
         memory kept as we keep it
plain    float32 as torch comes, a DataLoader of torchvision with the usual transforms of CIFAR and two workers

Each is a process of its own that waits while another runs. A round is ITERATIONS of each, after one of warm-up. The
benchmark prints medians of the rounds' ratios, peak memory of each process, and the share of our time that data take.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

IMAGES, ITERATIONS = 5120, 5
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)

Clock = Callable[[], float]


@dataclass(frozen=True)
class Network:
    """A network to train, its images, and what its slim form is."""

    source: str
    size: int
    batch: int
    settings: dict[str, int]
    cut: str = "*"  # layers that lose half of their channels


NETWORKS = {
    "resnet20": Network("cifar:resnet20", 32, 128, {}, "layer*.conv1"),
    "resnet56": Network("cifar:resnet56", 32, 128, {}, "layer*.conv1"),
    "mobilenet_v2": Network("torchvision:mobilenet_v2", 64, 32, {"num_classes": 10}),
    "vit_tiny": Network("timm:vit_tiny_patch16_224", 64, 32, {"num_classes": 10, "img_size": 64}),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true", help="processor seconds, where others use the machine as well")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--forms", nargs="+", choices=("slim", "dense"), default=["slim"])
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    given = parser.parse_args()
    clock = time.process_time if given.cpu else time.perf_counter
    for name, form in itertools.product(given.names, given.forms):
        rates, peaks, data = in_turn(name, form, given.rounds, given.threads, clock)
        print(
            name,
            form,
            *(f"{kind} {statistics.median(values):.0f} images/s" for kind, values in rates.items()),
            sep="  ",
        )
        for kind in ("bare", "plain"):
            ratios = sorted(ours / other for ours, other in zip(rates["ours"], rates[kind], strict=True))
            low, high = ratios[0], ratios[-1]
            print(f"  ours / {kind}: {statistics.median(ratios):.3f} of {given.rounds} rounds [{low:.3f}, {high:.3f}]")
        print(f"  peak memory, MiB: {peaks}  ours / bare: {peaks['ours'] / peaks['bare']:.2f}")
        print(f"  preparing data: {100 * data:.1f} % of our time")
        sys.stdout.flush()


def in_turn(
    name: str, form: str, rounds: int, threads: int, clock: Clock
) -> tuple[dict[str, list[float]], dict[str, int], float]:
    """Images per second of each round, peak memory in MiB, and the share of our time that data take."""
    context = get_context("spawn")
    pipes, processes = {}, []
    for kind in ("ours", "bare", "plain"):
        pipes[kind], theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(kind, name, form, threads, clock, theirs)))
        processes[-1].start()
    rates: dict[str, list[float]] = {kind: [] for kind in pipes}
    peaks, data = {}, []
    for round in range(rounds + 1):
        for kind, pipe in pipes.items():
            pipe.send("go")
            seconds, peaks[kind], in_data = pipe.recv()
            if round:
                rates[kind].append(NETWORKS[name].batch * ITERATIONS / seconds)
                data += [in_data / seconds] if kind == "ours" else []
    for process in processes:
        process.kill()
    return rates, peaks, statistics.median(data)


def work(kind: str, name: str, form: str, threads: int, clock: Clock, pipe: Connection) -> None:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = NETWORKS[name]
    module = build(network) if form == "dense" else slim(network)
    {"ours": ours, "bare": bare, "plain": plain}[kind](module, network, Gate(pipe, clock))


class Gate:
    """Lets ITERATIONS through at a time, and says how long they took."""

    def __init__(self, pipe: Connection, clock: Clock) -> None:
        self._pipe, self._clock = pipe, clock

    def __call__(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            self._pipe.recv()
            start, in_data = self._clock(), 0.0
            for _ in range(ITERATIONS):
                asked = self._clock()
                batch = next(batches)
                in_data += self._clock() - asked
                yield batch
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            self._pipe.send((self._clock() - start, peak, in_data))


def build(network: Network) -> Any:
    """The dense module with random weights."""
    import timm
    import torchvision

    from compressor.models.source import load_model

    library, _, name = network.source.partition(":")
    if library == "cifar":
        return load_model(network.source).module
    make = timm.create_model if library == "timm" else torchvision.models.get_model
    return make(name, **network.settings)


def slim(network: Network) -> Any:
    """Half of the channels of some layers removed, those of smallest L1 norm."""
    import torch

    from compressor.budget.layer_rules import LayerRule
    from compressor.budget.selection import select_channels
    from compressor.budget.target import PruningTarget
    from compressor.core import PrunePlan
    from compressor.criteria.magnitude import l1
    from compressor.surgery.analysis import analyze
    from compressor.surgery.removal import remove_channels

    dense = build(network).eval()
    structure = analyze(dense, torch.randn(1, 3, network.size, network.size), name=network.source)
    rules = (LayerRule(network.cut), LayerRule("*", freeze=True)) if network.cut != "*" else ()
    selection = PruningTarget(ratio=0.5, rules=rules)
    graded = l1.score_channels(dense, structure.groups)
    plan, _ = select_channels(structure.groups, graded, selection, structure.cost, structure.cost.of(PrunePlan({})))
    return remove_channels(dense, structure, plan)


def images(size: int) -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, size, size), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(0, 10, (IMAGES,), generator=generator)


def ours(module: Any, network: Network, gate: Callable[[Iterator[Any]], Iterator[Any]]) -> None:
    from compressor.data.image_data import ImageData
    from compressor.data.splits import InMemorySplit
    from compressor.steps.train import Train
    from compressor.training.loop import train
    from compressor.training.schedules import constant
    from compressor.training.train_settings import OptimizerSettings

    pixels, labels = images(network.size)
    split = InMemorySplit("noise", pixels, labels, [""] * IMAGES)

    @dataclass(frozen=True)
    class Gated(ImageData):
        @property
        def train_size(self) -> int:
            return 1 << 40  # one epoch for ever

        def train_batches(self, batch_size: int, *, epoch: int, seed: int, **where: Any) -> Iterator[Any]:
            whole = ImageData("noise", 10, MEAN, STD, split, split, augment="cifar")
            epochs = (whole.train_batches(batch_size, epoch=epoch, seed=seed) for epoch in itertools.count())
            return gate(itertools.chain.from_iterable(epochs))

    data = Gated("noise", 10, MEAN, STD, split, split, augment="cifar")
    optimizer = OptimizerSettings("sgd", lr=0.01, momentum=0.9, weight_decay=5e-4)
    step = Train(epochs=1, batch_size=network.batch, optimizer=optimizer, schedule=constant())
    train(module, data, step, seed=0, emit=lambda event, fields: None)


def bare(module: Any, network: Network, gate: Callable[[Iterator[Any]], Iterator[Any]]) -> None:
    import torch

    from compressor.training.precision import LAYOUT, precision_policy
    from compressor.training.training_memory import keep_freed_memory

    keep_freed_memory()
    ours = precision_policy("auto", module, torch.device("cpu"))
    pixels, labels = images(network.size)
    module.train().to(memory_format=LAYOUT)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=True)
    inputs = (pixels.float() / 255 - 0.5).to(memory_format=LAYOUT).split(network.batch)
    for x, y in gate(itertools.cycle(zip(inputs, labels.split(network.batch), strict=True))):
        with ours.autocast():
            logits = module(x)
        loss = torch.nn.functional.cross_entropy(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def plain(module: Any, network: Network, gate: Callable[[Iterator[Any]], Iterator[Any]]) -> None:
    import torch
    from PIL import Image
    from torchvision import transforms

    pixels, labels = images(network.size)
    pictures = pixels.permute(0, 2, 3, 1).numpy()
    change = transforms.Compose(
        [
            transforms.RandomCrop(network.size, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    class Pictures(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return IMAGES

        def __getitem__(self, index: int) -> Any:
            return change(Image.fromarray(pictures[index])), int(labels[index])

    loader = torch.utils.data.DataLoader(
        Pictures(), network.batch, shuffle=True, num_workers=2, drop_last=True, multiprocessing_context="fork"
    )
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for x, y in gate(itertools.chain.from_iterable(itertools.repeat(loader))):
        loss = torch.nn.functional.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


if __name__ == "__main__":
    main()
