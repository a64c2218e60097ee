"""CPU seconds and memory to find, choose and cut half of the channels as a network gets deeper.

    python tests/benchmarks/graph_growth.py

Bottleneck ResNets, dense blocks (every layer reads all before it, so weights grow with the square of the depth) and
transformers of growing depth; about the same milliseconds a layer mean linear growth.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import nn

from compressor.budget.selection import select_channels
from compressor.budget.target import PruningTarget
from compressor.core import PrunePlan
from compressor.criteria.magnitude import l1
from compressor.surgery.analysis import analyze
from compressor.surgery.removal import remove_channels


def networks() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    from torchvision.models.densenet import DenseNet
    from torchvision.models.resnet import Bottleneck, ResNet

    for depth in (4, 8, 16, 32, 64):
        yield "bottleneck ResNet", lambda depth=depth: ResNet(Bottleneck, [depth] * 4, width_per_group=16)
    for depth in (8, 16, 32, 64):
        yield "DenseNet, growth 8", lambda depth=depth: DenseNet(8, (depth,) * 4, 16)
    for depth in (6, 12, 24, 48):
        yield (
            "ViT, width 192",
            lambda depth=depth: torchvision.models.VisionTransformer(64, 16, depth, 3, 192, 768),
        )


def main() -> None:
    torch.set_num_threads(1)
    print("| network | layers with weights | CPU s | ms a layer | GiB at most |")
    print("|---|---|---|---|---|")
    for name, make in networks():
        torch.manual_seed(0)
        module = make().eval()
        layers = sum(isinstance(each, nn.Conv2d | nn.Linear) for each in module.modules())
        start = time.process_time()
        structure = analyze(module, torch.randn(1, 3, 64, 64), name=name)
        original = structure.cost.of(PrunePlan({}))
        graded = l1.score_channels(module, structure.groups)
        plan, _ = select_channels(structure.groups, graded, PruningTarget(ratio=0.5), structure.cost, original)
        remove_channels(module, structure, plan)
        seconds = time.process_time() - start
        gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {name} | {layers} | {seconds:.2f} | {1000 * seconds / layers:.1f} | {gib:.2f} |", flush=True)


if __name__ == "__main__":
    main()
