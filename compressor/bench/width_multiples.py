"""Which widths a device rewards: small residual blocks timed over widths, and a rule that reads the steps."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from compressor.atomic_write import write_text
from compressor.bench.device.protocol import Job, Timing
from compressor.bench.device.session import Device
from compressor.core import EventSink

STEPS = (1, 4, 8, 16, 32)
WIDTHS = {  # by the largest step that divides them
    32: (64, 96, 128),
    16: (80, 112),
    8: (72, 88, 104, 120),
    4: (76, 84, 100, 116),
    1: (75, 90, 101, 110, 121),
}
BLOCKS = {"bottleneck": (256, 14, (1, 3, 1)), "basic": (64, 28, (3, 3))}  # outer channels, height, kernels
LOSS = 0.06  # of speed that a finer step may cost: between what a full step and half a step cost, see `step_rewarded`

WARM_SECONDS, WINDOW_SECONDS, WINDOWS = 0.02, 0.004, 14
TIMEOUT = 120.0

Times = Mapping[int, float]
"""width -> time, of one kind of block"""


def preferred_width_multiple(device: Device, *, emit: EventSink) -> int:
    """The step (1, 4, 8, 16 or 32) that widths should be multiples of on the device; what `round_to: auto` means.

    Measured once in about 7 s, then read from the user's cache. Where two halves of the measurement disagree the
    coarser answer is taken, which is never the slower one, and not kept.
    """
    kept = width_cache_file(device.fingerprint)
    known = read_width_cache(kept)
    if known is not None:
        emit("staircase", {"round_to": known, "cached": True})
        return known
    names, timings = time_models(device)
    by_cpu = device.target.threads == 1 and device.target.provider == "cpu"
    halves = [coarsest_free_step(latency_tables(names, timings, half, by_cpu=by_cpu)) for half in (0, 1)]
    emit("staircase", {"round_to": max(halves), "cached": False, "agreed": halves[0] == halves[1]})
    if halves[0] == halves[1]:
        write_width_cache(kept, halves[0])
    return max(halves)


def coarsest_free_step(found: Sequence[Times]) -> int:
    """The finest step whose multiples all run at full speed.

    Full speed at a width is what the multiples of 32 around it promise: log time interpolated linearly in log width,
    which takes out that small layers are less efficient. The widths that have s as their largest step lose the
    median of `time / promised - 1`, over all kinds of block. The answer is the smallest step from which on, itself
    included, none loses more than 6 %. On CPUs with 512-bit vectors the steps 16, 8, 4 and 1 lose about 3, 11, 14
    and 30 %.
    """
    answer = STEPS[-1]
    for step in reversed(STEPS[:-1]):
        losses = [times[width] / interpolated_time(times, width) - 1 for times in found for width in WIDTHS[step]]
        if median(losses) > LOSS:
            break
        answer = step
    return answer


def interpolated_time(times: Times, width: int) -> float:
    anchors = sorted(WIDTHS[32])
    logs = [math.log(times[anchor]) for anchor in anchors]
    return math.exp(float(np.interp(math.log(width), np.log(anchors), logs)))


def time_models(device: Device) -> tuple[list[tuple[str, int]], tuple[Timing, ...]]:
    """Time every block at every width in one process, window by window in turn."""
    names = [(kind, width) for kind in BLOCKS for widths in WIDTHS.values() for width in widths]
    with tempfile.TemporaryDirectory(prefix="compress-staircase-") as folder:
        paths = tuple(Path(folder) / f"{kind}{width}.onnx" for kind, width in names)
        for path, (kind, width) in zip(paths, names, strict=True):
            onnx.save(synthetic_block(kind, width), path)
        job = Job(models=paths, warm_s=WARM_SECONDS, window_s=WINDOW_SECONDS, windows=WINDOWS, timeout=TIMEOUT)
        return names, device.run(job)


def latency_tables(names: list[tuple[str, int]], timings: Sequence[Timing], half: int, *, by_cpu: bool) -> list[Times]:
    """One table a kind of block, from every second window: the lower quartile of the windows' medians.

    The lower quartile, because a neighbour can only make a window slower.
    """
    found: dict[str, dict[int, float]] = {kind: {} for kind in BLOCKS}
    for (kind, width), timing in zip(names, timings, strict=True):
        windows = (timing.cpu if by_cpu else timing.wall)[half::2]
        found[kind][width] = float(np.quantile([median(window) for window in windows], 0.25))
    return list(found.values())


def synthetic_block(kind: str, width: int) -> ModelProto:
    """A residual block whose inner width is `width`, as pruning leaves it: convolutions, biases, ReLUs, sum."""
    channels, height, kernels = BLOCKS[kind]
    widths = [channels, *[width] * (len(kernels) - 1), channels]
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "input"
    for place, kernel in enumerate(kernels):
        shape = (widths[place + 1], widths[place], kernel, kernel)
        scaled = rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
        weights.append(numpy_helper.from_array(scaled.astype(np.float32), f"weight{place}"))
        weights.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"bias{place}"))
        names = [last, f"weight{place}", f"bias{place}"]
        nodes.append(helper.make_node("Conv", names, [f"conv{place}"], pads=[kernel // 2] * 4))
        last = f"conv{place}"
        if place < len(kernels) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"relu{place}"]))
            last = f"relu{place}"
    nodes += [helper.make_node("Add", [last, "input"], ["sum"]), helper.make_node("Relu", ["sum"], ["output"])]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, channels, height, height]) for n in ("input", "output")
    ]
    graph = helper.make_graph(nodes, kind, ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def width_cache_file(fingerprint: str) -> Path:
    """One file for each device, runtime version and way of using it."""
    key = json.dumps([fingerprint, LOSS])
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "compress" / f"staircase-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def read_width_cache(path: Path) -> int | None:
    """A step that was found before; whatever else the file holds counts as nothing."""
    try:
        step = json.loads(path.read_text())["round_to"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if step in STEPS else None


def write_width_cache(path: Path, step: int) -> None:
    """Keep the answer; a cache that can't be written costs 7 s the next time, no more."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"round_to": step}))
