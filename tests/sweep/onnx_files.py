"""Export architectures, import the files, and compare groups and pruning with those of the module itself.

    python tests/sweep/onnx_files.py --rooms classification timm --out results.jsonl [--names timm:resnet18 ...]
    python tests/sweep/onnx_files.py --table results.jsonl > tests/sweep/onnx_files.md

One JSON line for each architecture, the smallest first: whether half of the multiply-adds can be removed from the
module, and for each exporter whether the file is imported, its groups are the module's, half can be removed from it,
proven, and ONNX Runtime's answers to the slim file are the slim module's. Each architecture runs in a process of its
own with limits; started again, the script goes on after the last line. With `--exporters torchscript` first, the
exporter that takes longer adds lines of its own later.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from models import ROOMS, names  # beside this file
from onnx_files_table import page  # beside this file
from run import Tell, limited, make
from torch import Tensor, nn

from compressor.budget.target import PruningTarget
from compressor.core import LoadedModel, ModelSpec, one_image
from compressor.criteria.magnitude import l1
from compressor.export.exporter_shortcuts import operators_listed_once
from compressor.models.build import build_named
from compressor.models.export_model import model_exporter
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.source import load_model
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.training.training_checkpoint import Checkpoints

EXPORTS = (("torchscript", 17), ("dynamo", None))
ALL_EXPORTS = (("torchscript", 11), ("torchscript", 13), ("torchscript", 17), ("dynamo", 18), ("dynamo", None))
Exports = tuple[tuple[str, int | None], ...]
CPU_SECONDS = 300  # of one architecture through every exporter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rooms", nargs="*", default=[], choices=ROOMS)
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--opsets", action="store_true", help="five pairs of exporter and opset instead of two")
    parser.add_argument("--exporters", nargs="*", default=["torchscript", "dynamo"], choices=["torchscript", "dynamo"])
    parser.add_argument("--seconds", type=int, default=CPU_SECONDS)
    parser.add_argument(
        "--table", type=Path, nargs="*", help="results to print as a page; the last line of a name counts"
    )
    options = parser.parse_args()
    if options.table:
        print("\n".join(page(options.table)))
        return
    if options.out is None:
        sys.exit("--out names the file of the results")
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)  # of the exporters
    with tempfile.TemporaryDirectory() as folder:  # what every process would import and list again
        export(nn.Linear(2, 2), torch.randn(2, 2), Path(folder) / "first.onnx", "dynamo", None)
    done = finished(options.out)
    pairs = [pair for pair in (ALL_EXPORTS if options.opsets else EXPORTS) if pair[0] in options.exporters]
    wanted = dict.fromkeys([*options.names, *(name for room in options.rooms for name in names(room))])
    left = {name: tuple(pair for pair in pairs if pair not in done.get(name, ())) for name in wanted}
    sizes = {name: parameters(name) for name, exports in left.items() if exports}
    for name in sorted(sizes, key=lambda name: sizes[name]):
        row = limited(name, partial(compared, name, left[name]), options.seconds) | {"parameters": sizes[name]}
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row)[:300], flush=True)


def finished(out: Path) -> dict[str, Exports]:
    """What the file of results has of each architecture: all, where the module itself cannot be pruned or built."""
    done: dict[str, Exports] = {}
    for row in map(json.loads, out.read_text().splitlines() if out.exists() else ()):
        exports = tuple((entry["exporter"], entry["opset"]) for entry in row.get("exports", ())) or ALL_EXPORTS
        done[row["name"]] = (*done.get(row["name"], ()), *exports)
    return done


def parameters(name: str) -> int:
    """The number of parameters, without memory for them; 0 where the architecture cannot be built so."""
    try:
        with torch.device("meta"):
            module = build_named(ModelSpec(name, one_image((3, 224, 224))))
    except Exception:  # whatever constructors do with tensors that have no values
        return 0
    return sum(parameter.numel() for parameter in module.parameters())


def compared(name: str, exports: Exports, tell: Tell) -> dict[str, Any]:
    """The results of one architecture through every exporter."""
    tell({"phase": "build"})
    module, shape = make(name, False)
    tell({"phase": "module", "input": shape})
    try:
        expected = prunable(pruned(LoadedModel(module, ModelSpec(name, one_image(shape)), name)))
    except Exception as error:  # what cannot be pruned from the module need not be pruned from the file
        return {"outcome": "module cannot be pruned", "error": str(error)[:300]}
    detector = any(word in name for word in ("rcnn", "retinanet", "fcos", "ssd"))
    rows: list[dict[str, Any]] = []
    for how, opset in exports:
        tell({"phase": f"{how} {opset}"})
        row = _through(module, torch.randn(1 if detector else 2, *shape), how, opset, expected)
        rows.append({"exporter": how, "opset": opset, **row})
        tell({"exports": rows})
    return {"outcome": "ok", "exports": rows}


def _through(module: nn.Module, x: Tensor, how: str, opset: int | None, expected: Counter[int]) -> dict[str, Any]:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.onnx"
        try:
            export(module, x, path, how, opset)
        except Exception as error:  # exporters raise anything
            return {"outcome": "not exported", "error": str(error)[:300]}
        exported = round(time.perf_counter() - start, 1)
        try:
            model = load_model(str(path))
        except Exception as error:
            return {"outcome": "not imported", "error": f"{type(error).__name__}: {error}"[:500], "exported": exported}
        try:
            state = pruned(model)
            exporter = model_exporter(model, example_inputs(model, 3), opset=None, dynamic_batch=True)
            slim = exporter.export(state.model.module, Path(folder) / "slim.onnx")
        except Exception as error:
            return {"outcome": "not pruned", "error": f"{type(error).__name__}: {error}"[:500], "exported": exported}
    assert state.certificate is not None
    groups = prunable(state)
    return {
        "outcome": "pruned" if state.certificate.ok and slim.ok else "not proven",
        "missing": sorted((expected - groups).elements()),
        "added": sorted((groups - expected).elements()),
        "certificate": state.certificate.max_rel_error,
        "difference": slim.max_abs_error,
        "exported": exported,
        "seconds": round(time.perf_counter() - start, 1),
    }


def export(module: nn.Module, x: Tensor, path: Path, how: str, opset: int | None) -> None:
    """Export with a free batch dimension, where there are two samples."""
    common: dict[str, Any] = {"input_names": ["input"], "opset_version": opset}
    free = len(x) > 1
    if how == "dynamo":
        shapes = ({0: torch.export.Dim("batch")},) if free else None
        common |= {"dynamo": True, "dynamic_shapes": shapes, "verbose": False}
    else:
        common |= {"dynamo": False, "dynamic_axes": {"input": {0: "batch"}} if free else None}
    with operators_listed_once():
        torch.onnx.export(module.eval(), (x,), str(path), **common)


def pruned(model: LoadedModel) -> PruningState:
    """Remove half of the multiply-adds."""
    context = Context(None, 0, RunLog(), Checkpoints(None, model.name))
    state = run_step(SelectChannels(l1, PruningTarget(macs=0.5)), initial_state(model, context), context)
    return run_step(RemoveChannels(), state, context)


def prunable(state: PruningState) -> Counter[int]:
    """The sizes of the groups that can be pruned in the dense model."""
    return Counter(group.size for group in state.baseline.groups if group.frozen is None)


if __name__ == "__main__":
    main()
