"""CPU seconds to find, choose and cut half of the channels: ours against torch-pruning, model by model, in one run.

    python tests/benchmarks/graph_scale.py [NAME ...]

Each tool gets the same random weights in a process of its own, one thread, its first run; a ratio below 1 means that
ours is faster. CPU time of that one thread, so that neighbours on the machine change little; GiB are the process's
most, with PyTorch in it and the weights. torch-pruning: `BasePruner` with L1 group magnitude, ratio 0.5, the classifier
ignored, then `step()`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

NAMES = [
    "torchvision:resnet152",
    "torchvision:densenet201",
    "torchvision:efficientnet_v2_l",
    "torchvision:convnext_large",
    "torchvision:vit_l_16",
    "torchvision:resnext101_32x48d",
]
LIMIT = 240  # seconds for one tool on one model


def ours(name: str) -> None:
    import torch

    from compressor.budget.selection import select_channels
    from compressor.budget.target import PruningTarget
    from compressor.core import PrunePlan
    from compressor.criteria.magnitude import l1
    from compressor.surgery.analysis import analyze
    from compressor.surgery.removal import remove_channels

    module, inputs = _model(name), torch.randn(1, 3, 224, 224)
    start = time.process_time()
    structure = analyze(module, inputs, name=name)
    original = structure.cost.of(PrunePlan({}))
    graded = l1.score_channels(module, structure.groups)
    plan, _ = select_channels(structure.groups, graded, PruningTarget(ratio=0.5), structure.cost, original)
    _report(start, remove_channels(module, structure, plan), original.params)


def theirs(name: str) -> None:
    import torch
    import torch_pruning as tp

    module, inputs = _model(name), torch.randn(1, 3, 224, 224)
    before = sum(parameter.numel() for parameter in module.parameters())
    heads = [each for each in module.modules() if isinstance(each, torch.nn.Linear) and each.out_features == 1000]
    start = time.process_time()
    pruner = tp.BasePruner(
        module, inputs, tp.importance.GroupMagnitudeImportance(p=1), pruning_ratio=0.5, ignored_layers=heads,
        in_channel_groups={}, out_channel_groups={},
    )  # fmt: skip
    pruner.step()
    _report(start, module, before)


def _model(name: str):  # type: ignore[no-untyped-def]
    import timm
    import torch
    import torchvision

    torch.set_num_threads(1)
    torch.manual_seed(0)
    family, _, architecture = name.partition(":")
    if architecture == "resnext101_32x48d":  # 829 M parameters; no package builds it by name any more
        resnet = torchvision.models.resnet
        return resnet.ResNet(resnet.Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=48).eval()
    make = timm.create_model if family == "timm" else torchvision.models.get_model
    return make(architecture).eval()


def _report(start: float, slim, before: int) -> None:  # type: ignore[no-untyped-def]
    seconds = time.process_time() - start
    after = sum(parameter.numel() for parameter in slim.parameters())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "params": after / before, "gib": memory}))


def measure(tool: str, name: str) -> dict[str, float] | str:
    """One tool on one model, or why there is no number."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, tool, name], capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"none in {LIMIT} s"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:60]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(names: list[str]) -> None:
    print("| model | ours | torch-pruning | ours / theirs | parameters left, ours and theirs | GiB, ours and theirs |")
    print("|---|---|---|---|---|---|")
    for name in names or NAMES:
        a, b = measure("ours", name), measure("theirs", name)
        if isinstance(a, str) or isinstance(b, str):
            cells = [each if isinstance(each, str) else f"{each['seconds']:.1f} s" for each in (a, b)]
            print(f"| {name} | {cells[0]} | {cells[1]} | - | - | - |", flush=True)
            continue
        ratio = a["seconds"] / b["seconds"]
        shares = f"{a['params']:.0%}, {b['params']:.0%}"
        memory = f"{a['gib']:.1f}, {b['gib']:.1f}"
        print(
            f"| {name} | {a['seconds']:.1f} s | {b['seconds']:.1f} s | {ratio:.2f} | {shares} | {memory} |", flush=True
        )


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["theirs"]):
        {"ours": ours, "theirs": theirs}[sys.argv[1]](sys.argv[2])
    else:
        main(sys.argv[1:])
