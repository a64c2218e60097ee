"""Second-order scores of a large network: memory at its peak, and whether pieces of a batch change the ranking.

    python tests/benchmarks/saliency_memory.py --model torchvision:resnet50 --size 224 --batch 32 [--pieces 8 2]

One JSON line for each number of images that go through at a time: seconds, peak resident memory of a process of its
own, and, against the first line, the largest difference of a channel's score relative to the largest score, the rank
correlation of all scores, and how many of the best 34 % of all channels are others. Images are noise: no score means
anything, its arithmetic does.

2 cores AMD EPYC, shared: ResNet-50 at 224 x 224 and batch 32, 6 images at a time, 3.14 GB. ResNet-18 at 64 x 64 and
batch 8, 8, 4 and 1 at a time: the same 34 %, scores within 5e-7 of the largest.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time

import numpy as np
import torch

from compressor.core import ModelInput, ModelSpec
from compressor.criteria import gradient as sensitivity
from compressor.criteria._aggregate import sum_over_writers
from compressor.criteria.gradient import GradientCriterion
from compressor.criteria.gradient_formulas import crop
from compressor.data.image_data import ImageData
from compressor.data.splits import InMemorySplit
from compressor.models.build import build_named
from compressor.surgery.analysis import analyze


def noise(size: int, count: int) -> ImageData:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)
    labels = torch.randint(0, 1000, (count,), generator=random)
    split = InMemorySplit("noise", images, labels, [f"item {index}" for index in range(count)])
    return ImageData("noise", 1000, (0.5,) * 3, (0.25,) * 3, split, split, augment="none")


def measured(model: str, size: int, batch: int, pieces: int, queue: multiprocessing.Queue[object]) -> None:
    """In a process of its own, so that the peak is of these scores and nothing before them."""
    torch.manual_seed(0)
    module = build_named(ModelSpec(model, (ModelInput((3, size, size)),)))
    groups = analyze(module, torch.randn(1, 3, size, size), name=model).groups
    data = noise(size, batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sensitivity.MAX_INPUT_VALUES = pieces * 3 * size * size
    start = time.perf_counter()
    saliency = GradientCriterion("crop", crop, order=2, batches=1, batch_size=batch)
    entries = sensitivity.gradient_scores(module, saliency, data, 0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = sum_over_writers(groups, entries, signed=False)
    scores = np.concatenate([found[name] for name in sorted(found)])
    queue.put(({"images at a time": pieces, "seconds": round(seconds, 1), "peak_gb": round(peak * 1024 / 1e9, 2),
                "peak_before_gb": round(before * 1024 / 1e9, 2)}, scores))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pieces", type=int, nargs="+", default=[6, 2], help="images at a time; 6 is what runs use")
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    first: np.ndarray | None = None
    for pieces in asked.pieces:
        queue = context.Queue()
        process = context.Process(target=measured, args=(asked.model, asked.size, asked.batch, pieces, queue))
        process.start()
        row, scores = queue.get()
        process.join()
        if first is None:
            first = scores
        else:
            ranks = [np.argsort(np.argsort(each)) for each in (first, scores)]
            remain = [set(np.argsort(each)[-round(0.34 * len(each)) :].tolist()) for each in (first, scores)]
            row["largest difference"] = float(np.abs(first - scores).max() / first.max())
            row["rank correlation"] = float(np.corrcoef(*ranks)[0, 1])
            row["of those that remain, others"] = f"{len(remain[0] - remain[1])} of {len(remain[0])}"
        print(json.dumps({"model": asked.model, "size": asked.size, "batch": asked.batch, **row}), flush=True)


if __name__ == "__main__":
    main()
