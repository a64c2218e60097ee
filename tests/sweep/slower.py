"""No plan may come out slower than its parent: mild and strong cuts of many kinds of models, measured on this machine.

    python tests/sweep/slower.py [MODEL ...]

One JSON line for each model and target: dense / slim with its 95 % interval, from both files in turn in fresh
processes, widths as the machine rewards them. A plan whose whole interval lies below 1 is measured once more, for one
in forty does so by chance; the exit code is 1 where it does again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator

from compressor.commands.plan import plan_several
from compressor.errors import TargetNotReached
from compressor.recipe import read_recipe

MODELS = (
    "cifar:resnet20",
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:squeezenet1_1",
    "torchvision:efficientnet_b0",
    "torchvision:regnet_y_400mf",
    "torchvision:mnasnet1_0",
    "torchvision:googlenet",
    "timm:vit_tiny_patch16_224",
    "timm:convnext_atto",
)
TARGETS = ("macs: 90%", "macs: 75%", "macs: 50%")


def measured(source: str, targets: tuple[str, ...]) -> Iterator[tuple[str, float, list[float]]]:
    """Target, dense / slim, and its interval, of each target that can be met."""
    recipes = {each: read_recipe("l1", [f"prune.target={{{each}}}"]) for each in targets}
    try:
        found = plan_several(source, recipes, data=None, trust_pickle=False, emit=lambda _event, _fields: None)
    except TargetNotReached as error:
        print(json.dumps({"model": source, "error": str(error)}), flush=True)
        return
    for point in found["points"]:
        if point["latency"] is not None:
            yield point["asked"], point["latency"]["ratio"], point["latency"]["ratio_interval"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    slower = []
    for source in parser.parse_args().models:
        start = time.perf_counter()
        for target, ratio, bounds in measured(source, TARGETS):
            again = bounds[1] < 1
            if again:
                _, ratio, bounds = next(measured(source, (target,)))
            row = {"model": source, "target": target, "ratio": round(ratio, 3), "again": again}
            row |= {"ci95": [round(each, 3) for each in bounds], "seconds": round(time.perf_counter() - start, 1)}
            print(json.dumps(row), flush=True)
            if bounds[1] < 1:
                slower.append(f"{source} at {target}")
    print(f"slower: {', '.join(slower) or 'none'}", file=sys.stderr)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
