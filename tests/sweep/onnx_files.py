"""Export architectures, import the files, and compare groups and pruning with those of the module itself.

    python tests/sweep/onnx_files.py --rooms classification timm --out results.jsonl [--names timm:resnet18 ...]

One JSON line for each architecture, exporter and opset: whether the file was imported, whether its groups are the
module's, whether half of the multiply-adds can be removed, and how far ONNX Runtime's answers to the slim file are from
the slim module's.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from models import ROOMS, names  # beside this file
from run import make
from torch import Tensor, nn

from compressor.budget.target import PruningTarget
from compressor.core import LoadedModel, ModelSpec, one_image
from compressor.criteria.magnitude import l1
from compressor.models.example_inputs import example_inputs
from compressor.models.export_model import export_model
from compressor.models.source import load_model
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.training.training_checkpoint import Checkpoints

EXPORTS = (("torchscript", 11), ("torchscript", 13), ("torchscript", 17), ("dynamo", 18), ("dynamo", None))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rooms", nargs="*", default=[], choices=ROOMS)
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)  # of the exporters
    done = {json.loads(line)["name"] for line in options.out.read_text().splitlines()} if options.out.exists() else {}
    wanted = [*options.names, *(name for room in options.rooms for name in names(room))]
    for name in dict.fromkeys(wanted):
        if name not in done:
            for line in compared(name):
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line)[:300], flush=True)


def compared(name: str) -> list[dict[str, Any]]:
    """The results of one architecture through every exporter."""
    module, shape = make(name, False)
    x = torch.randn(2, *shape)
    try:
        expected = prunable(pruned(LoadedModel(module, ModelSpec(name, one_image(shape)), name)))
    except Exception as error:  # what cannot be pruned from the module need not be pruned from the file
        return [{"name": name, "outcome": "module cannot be pruned", "error": str(error)[:300]}]
    return [
        {"name": name, "exporter": how, "opset": opset, **_through(module, x, how, opset, expected)}
        for how, opset in EXPORTS
    ]


def _through(module: nn.Module, x: Tensor, how: str, opset: int | None, expected: Counter[int]) -> dict[str, Any]:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.onnx"
        try:
            export(module, x, path, how, opset)
        except Exception as error:  # exporters raise anything
            return {"outcome": "not exported", "error": str(error)[:300]}
        try:
            state = pruned(load_model(str(path)))
            model = state.model
            slim = export_model(
                model.module, model.spec, example_inputs(model, 3), Path(folder) / "slim.onnx", opset=None,
                dynamic_batch=True, metadata={},
            )  # fmt: skip
        except Exception as error:
            return {"outcome": "failed", "error": f"{type(error).__name__}: {error}"[:500]}
    assert state.certificate is not None
    return {
        "outcome": "pruned" if state.certificate.ok and slim.ok else "not proven",
        "groups equal": prunable(state) == expected,
        "difference": slim.max_abs_error,
        "seconds": round(time.perf_counter() - start, 1),
    }


def export(module: nn.Module, x: Tensor, path: Path, how: str, opset: int | None) -> None:
    """Export with a free batch dimension."""
    common: dict[str, Any] = {"input_names": ["input"], "opset_version": opset}
    if how == "dynamo":
        common |= {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("batch")},), "verbose": False}
    else:
        common |= {"dynamo": False, "dynamic_axes": {"input": {0: "batch"}}}
    torch.onnx.export(module.eval(), (x,), str(path), **common)


def pruned(model: LoadedModel) -> PruningState:
    """Remove half of the multiply-adds."""
    context = Context(None, 0, RunLog(), Checkpoints(Path("unused"), model.name))
    state = run_step(SelectChannels(l1, PruningTarget(macs=0.5)), initial_state(model, context), context)
    return run_step(RemoveChannels(), state, context)


def prunable(state: PruningState) -> Counter[int]:
    """The sizes of the groups that can be pruned in the dense model."""
    return Counter(group.size for group in state.baseline.groups if group.frozen is None)


if __name__ == "__main__":
    main()
