"""What leaves a run: both models as ONNX, proven equal to PyTorch's, and what they take on the target."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compressor import __version__
from compressor.bench.compare import compare_latency
from compressor.bench.device.target import DeviceTarget
from compressor.core import Comparison, Data, ExportedModel, QuantizedModel
from compressor.errors import VerificationFailed
from compressor.export.int8 import quantize_int8
from compressor.export.onnx import export_onnx
from compressor.models.example_inputs import calibration_inputs
from compressor.recipe import Recipe
from compressor.run_log import RunLog
from compressor.steps.state import PruningState
from compressor.training.evaluate import BATCH_SIZE
from compressor.training.evaluate import evaluate as evaluate

PARITY_IMAGES = 16
TIMED_IMAGES = 8
CALIBRATION_IMAGES, CALIBRATION_BATCH = 512, 64  # that the ranges of int8 activations are taken from


@dataclass(frozen=True, slots=True)
class Exports:
    dense: ExportedModel
    slim: ExportedModel
    int8: QuantizedModel | None = None


def export_both(
    start: PruningState, work: PruningState, recipe: Recipe, data: Data | None, folder: Path, journal: RunLog
) -> Exports:
    """dense.onnx and model.onnx through the same exporter, each compared with PyTorch on the same inputs."""
    inputs = calibration_inputs(work.model, data, PARITY_IMAGES)
    metadata = {
        "compressor_version": __version__,
        "recipe_sha256": hashlib.sha256(recipe.to_yaml().encode()).hexdigest(),
        "parent_sha256": start.model.sha256 or "",
    }
    if work.masks:
        metadata["sparsity"] = str(work.sparse.sparsity.pattern) if work.sparse else "unstructured"
        metadata["sparsity_layers"] = " ".join(name.removesuffix(".weight") for name in work.masks)

    def export(module: nn.Module, name: str) -> ExportedModel:
        journal("stage", {"name": f"export {name}"})
        done = export_onnx(
            module,
            inputs,
            folder / name,
            opset=recipe.export.opset_version,
            dynamic_batch=recipe.export.dynamic_batch,
            metadata=metadata,
            names=[each.name for each in work.model.spec.inputs],
        )
        if not done.ok:
            problem = f"the outputs of ONNX Runtime and PyTorch differ by {done.max_abs_error:.2e}"
            raise VerificationFailed(
                "parity/outputs-differ",
                name,
                problem,
                "try another export.opset, and report this with the model's name",
            )
        return done

    with journal.stage("export"):
        dense, slim = export(start.model.module, "dense.onnx"), export(work.model.module, "model.onnx")
    return Exports(dense, slim, _int8(slim.path, data, journal) if recipe.export.int8 else None)


def _int8(path: Path, data: Data | None, journal: RunLog) -> QuantizedModel | None:
    """The exported model quantised, where there are images to find its ranges with."""
    if data is None or data.task is None:
        journal("warning", {"text": "model.int8.onnx not written: its ranges come from images, add --data"})
        return None
    out = path.with_name("model.int8.onnx")
    with journal.stage("quantise"):
        module = quantize_int8(path, out, data.calibration_batches(CALIBRATION_BATCH, images=CALIBRATION_IMAGES))
        quality = evaluate(module, data.val_batches(BATCH_SIZE), data.task.metric)
    return QuantizedModel(out, out.stat().st_size, quality)


def compare_on_device(
    exports: Exports, recipe: Recipe, target: DeviceTarget | None, data: Data | None, journal: RunLog
) -> tuple[Comparison, ...]:
    """Dense against slim on the target, once for each batch size of the recipe.

    On real images where there are any; but they never leave this machine.
    """
    if target is None:
        return ()
    settings = recipe.bench
    inputs = None
    if data is not None and target.is_here:
        inputs = torch.cat(list(data.calibration_batches(TIMED_IMAGES, images=TIMED_IMAGES))).numpy()
    with journal.stage("measure"), target.opened() as device:
        comparisons = tuple(
            compare_latency(
                device,
                exports.dense.path,
                exports.slim.path,
                batch=batch,
                seconds=settings.seconds,
                layers=batch == settings.batch[0],
                inputs=inputs,
                emit=journal,
            )
            for batch in settings.batch
        )
    for clock in {each.environment["clock"] for each in comparisons} - {"wall"}:
        journal("warning", {"text": f"latency is {clock}, not wall time: others used the processor meanwhile"})
    return comparisons
