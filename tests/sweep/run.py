"""Prune many architectures, each in a process of its own with limits, and write one JSON line for each.

    python tests/sweep/run.py --rooms timm detection --out results.jsonl [--onnx] [--names timm:resnet18 ...]

Limits are CPU seconds (of one thread) and address space, so that a busy machine changes nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from models import ROOMS, names  # beside this file
from torch import Tensor, nn

from compressor.budget.target import PruningTarget
from compressor.core import LoadedModel, ModelSpec, one_image
from compressor.criteria.magnitude import l1
from compressor.errors import CompressorError
from compressor.export.onnx import OnnxExporter
from compressor.graph.cost import count_cost
from compressor.models.build import build_named, model_defaults
from compressor.models.inputs.example_inputs import example_inputs
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.training.training_checkpoint import Checkpoints

CPU_SECONDS, WALL_SECONDS, BYTES = 120, 1800, 12 * 2**30
LARGE = (224, 240)  # what architectures for larger images are tried at
SMALL = (64, 128)  # what convolutional networks are tried at: channels do not depend on it, and it is quick
FIXED = (
    "vit",
    "swin",
    "former",
    "coat",
    "mixer",
    "mlp",
    "nest",
    "cait",
    "hiera",
    "twins",
)  # attention: its size matters

Tell = Callable[[dict[str, Any]], None]
Task = Callable[[Tell], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rooms", nargs="*", default=[], choices=ROOMS)
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument("--native", action="store_true", help="inputs of the published size only")
    options = parser.parse_args()
    done = {json.loads(line)["name"] for line in options.out.read_text().splitlines()} if options.out.exists() else {}
    asked = [*options.names, *(name for room in options.rooms for name in names(room))]
    for name in dict.fromkeys(asked):
        if name not in done:
            line = json.dumps(limited(name, partial(prune, name, onnx=options.onnx, native=options.native)))
            with options.out.open("a") as file:
                file.write(line + "\n")
            print(line[:300], flush=True)


def limited(name: str, task: Task, cpu_seconds: int = CPU_SECONDS) -> dict[str, Any]:
    """The result of one model, whatever becomes of its process; with what the task has sent before it was ended."""
    context = multiprocessing.get_context("fork")  # torch and timm are imported once
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, task, cpu_seconds))
    start = time.perf_counter()
    process.start()
    sender.close()
    result: dict[str, Any] = {"name": name}
    while receiver.poll(max(0.0, WALL_SECONDS - (time.perf_counter() - start))):
        try:
            result |= receiver.recv()
        except EOFError:
            break
    process.join(1)
    if process.exitcode is None:
        process.kill()
    process.join()
    if "outcome" not in result:
        result |= {"outcome": "no end", "error": f"exit code {process.exitcode} in {result.get('phase')}"}
    return result | {"wall": round(time.perf_counter() - start, 1)}


def _child(pipe: Connection, task: Task, cpu_seconds: int) -> None:
    torch.set_num_threads(1)
    limit = int(time.process_time()) + 1 + cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()  # libraries, most of it
    resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES, mapped + BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    try:
        pipe.send(task(pipe.send))
    except CompressorError as error:
        pipe.send({"outcome": "statement", "error": f"{type(error).__name__}: {error}"})
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__}: {error} at {place.filename}:{place.lineno}"
        pipe.send({"outcome": "traceback", "error": kind[-1500:], "trace": traceback.format_exc()[-3000:]})


def prune(name: str, tell: Tell, *, onnx: bool, native: bool) -> dict[str, Any]:
    """Half of the multiply-adds go; the certificate and, if asked, the ONNX file are checked."""
    seconds: dict[str, float] = {}

    @contextmanager
    def phase(label: str) -> Iterator[None]:
        tell({"phase": label})
        start = time.process_time()
        yield
        seconds[label] = round(time.process_time() - start, 2)

    with phase("build"):
        module, shape = make(name, native)
    around = Context(None, 0, RunLog(), Checkpoints(None, name))
    with phase("analyse"):
        work = initial_state(LoadedModel(module, ModelSpec(name, one_image(shape)), name), around)
    tell({"input": shape, "seconds": seconds, **describe(work)})
    with phase("choose"):
        work = run_step(SelectChannels(l1, PruningTarget(macs=0.5)), work, around)
    tell({"seconds": seconds, **describe(work)})
    with phase("remove"):
        work = run_step(RemoveChannels(), work, around)
    assert work.certificate is not None
    slim = work.model.module
    cost = count_cost(slim, *example_inputs(work.model))
    tell(
        {"share": cost.macs / work.baseline.cost.macs, "params share": cost.params / work.baseline.cost.params,
         "certificate": work.certificate.max_rel_error, "kind": work.certificate.kind, "seconds": seconds}
    )  # fmt: skip
    if onnx:
        with phase("onnx"), tempfile.TemporaryDirectory() as folder:
            exporter = OnnxExporter(example_inputs(work.model, 2), opset=None, dynamic_batch=False)
            exported = exporter.export(slim, Path(folder) / "slim.onnx")
        if not exported.ok:
            return {"outcome": "parity", "error": f"{exported.max_abs_error:.1e}", "seconds": seconds}
        return {
            "outcome": "ok", "seconds": seconds, "notes": exported.notes,
            "parity": exported.max_abs_error, "compared": exported.compared,
        }  # fmt: skip
    return {"outcome": "ok", "seconds": seconds}


def describe(work: PruningState) -> dict[str, Any]:
    """Groups by what they are: free, or frozen and why."""
    frozen = [group.frozen.reason if group.frozen else "free" for group in work.baseline.groups]
    reasons = Counter(reason.split(" (")[0] for reason in frozen)
    lines = Counter(reason for reason in frozen if reason != "free")
    least = work.baseline.graph.cost.least(work.baseline.groups).macs / work.baseline.cost.macs
    return {
        "groups": len(work.baseline.groups),
        "reasons": dict(reasons),
        "lines": dict(lines.most_common(12)),
        "least": least,
    }


def make(name: str, native: bool) -> tuple[nn.Module, tuple[int, int, int]]:
    """The model awake, and the smallest input shape it was seen to run on."""
    expected = model_defaults(name).input
    torch.manual_seed(0)
    if name in names("detection"):  # they resize what they are given
        module = awake(build_named(ModelSpec(name, one_image(expected))))
        if not module.transform.fixed_size:
            module.transform.min_size, module.transform.max_size = (128,), 192
        return module, (3, 128, 160)
    for size in LARGE if expected[1] > 256 and not native else ():
        smaller = (3, size, size)
        with suppress(CompressorError):
            module = awake(build_named(ModelSpec(name, one_image(smaller))))
            if runs(module, smaller):
                return module, smaller
    module = awake(build_named(ModelSpec(name, one_image(expected))))
    shapes = [] if native or any(word in name for word in FIXED) else [(3, size, size) for size in SMALL]
    return module, next((shape for shape in shapes if runs(module, shape)), expected)


def runs(module: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether the module takes this shape; what is too small is said in many ways."""
    try:
        with torch.inference_mode():
            module(torch.zeros(1, *shape))
    except Exception:
        return False
    return True


def awake(module: nn.Module) -> nn.Module:
    """Nothing that starts at zero or one stays there: it would hide wrong channels."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            if tensor.is_floating_point() and float(tensor.std(correction=0)) < 1e-3:
                tensor.copy_(_around(tensor, random))
        for label, tensor in module.named_buffers():
            if label.endswith(("running_mean", "running_var")):
                tensor.uniform_(0.5, 1.5, generator=random)
    return module.requires_grad_(requires_grad=False).eval()


def _around(tensor: Tensor, random: torch.Generator) -> Tensor:
    noise = torch.rand(tensor.shape, generator=random)
    return noise + 0.5 if tensor.ndim == 1 or tensor.numel() < 10_000 else (noise - 0.5) / tensor.shape[-1] ** 0.5


if __name__ == "__main__":
    sys.exit(main())
