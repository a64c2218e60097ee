"""Both models as ONNX files that agree with PyTorch, the int8 model, and their latency on the target device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from compressor import __version__
from compressor.bench.compare import compare_latency
from compressor.bench.device.device import Device
from compressor.bench.timed_inputs import named_samples
from compressor.core import Comparison, Data, ExportedModel, LoadedModel, QuantizedModel
from compressor.errors import VerificationFailed
from compressor.export.int8 import quantize_int8
from compressor.export.onnx_file import has_free_batch, has_free_sizes
from compressor.models.export_model import model_exporter
from compressor.models.families.onnx_files import is_onnx
from compressor.models.inputs.example_inputs import calibration_inputs
from compressor.recipe import Recipe
from compressor.run_log import RunLog
from compressor.steps.state import PruningState
from compressor.training.evaluate import BATCH_SIZE, evaluate

DENSE_MODEL, SLIM_MODEL, INT8_MODEL = "dense.onnx", "model.onnx", "model.int8.onnx"
FEWEST_IMAGES, MOST_IMAGES = 3, 16  # of the comparison with PyTorch; batches of one and two take three
PARITY_MACS = 64e9  # of one pass over these images
TIMED_IMAGES = 8
CALIBRATION_IMAGES, CALIBRATION_BATCH = 512, 64  # for the ranges of int8 activations


@dataclass(frozen=True, slots=True)
class Exports:
    """The files of a run; `int8` only where the recipe exports it and there is data."""

    dense: ExportedModel
    slim: ExportedModel
    int8: QuantizedModel | None = None


def export_models(
    baseline: PruningState, state: PruningState, recipe: Recipe, data: Data | None, folder: Path, log: RunLog
) -> Exports:
    """Export both models through the same exporter, and compare each with PyTorch on the same inputs.

    Args:
        baseline: The state before the first step; its model becomes dense.onnx.
        state: The state after the last step; its model becomes model.onnx.
        recipe: Opset, batch dimension, and whether to quantize.
        data: Inputs for the comparison; seeded noise without.
        folder: Where the files are written.
        log: Events and times.

    Raises:
        VerificationFailed: Outputs of ONNX Runtime and PyTorch differ.
        ModelError: No exporter takes the model.
    """
    exporter = model_exporter(
        baseline.model,
        calibration_inputs(state.model, data, _parity_images(state.baseline.cost.macs)),
        opset=recipe.export.opset_version,
        dynamic_batch=recipe.export.dynamic_batch,
        dynamic_sizes=recipe.export.frees_sizes(state.model.spec.inputs),
        metadata=_metadata(baseline, state, recipe),
    )
    exported = {}
    with log.stage("export"):
        for name, model in ((DENSE_MODEL, baseline.model), (SLIM_MODEL, state.model)):
            log("stage", {"name": f"export {name}"})
            exported[name] = exporter.export(model.module, folder / name)
            if not exported[name].ok:
                error = exported[name].max_abs_error
                problem = f"the outputs of ONNX Runtime and PyTorch differ by {error:.2e}"
                hint = "try another export.opset, and report this with the model's name"
                raise VerificationFailed("parity/outputs-differ", name, problem, hint)
    dense, slim = exported.values()
    _warn_of_fixed_sizes(slim.path, recipe, state.model, log)
    return Exports(dense, slim, _export_int8(slim.path, data, log) if recipe.export.int8 else None)


def _warn_of_fixed_sizes(path: Path, recipe: Recipe, model: LoadedModel, log: RunLog) -> None:
    """Warn where sizes are fixed that the recipe wants free. A file made of an ONNX file keeps the given sizes."""
    if is_onnx(model.spec.source):
        return
    dims = model.spec.batch_dims
    if recipe.export.dynamic_batch and any(dim is not None for dim in dims) and not has_free_batch(path, dims):
        log.warning(f"{path.name} takes batches of one size only: the notes in the report say why")
    if recipe.export.dynamic_sizes is True and not has_free_sizes(path):
        why = "the network does not take other sizes, or is not exported correctly with them"
        log.warning(f"{path.name} takes inputs of one size only, although export.dynamic_sizes is true: {why}")


def _parity_images(macs: int) -> int:
    """The number of images to compare with: fewer for large models, whose passes take long."""
    return int(min(MOST_IMAGES, max(FEWEST_IMAGES, PARITY_MACS / max(macs, 1))))


def _metadata(baseline: PruningState, state: PruningState, recipe: Recipe) -> dict[str, str]:
    """What both ONNX files say about where they come from."""
    metadata = {
        "compressor_version": __version__,
        "recipe_sha256": hashlib.sha256(recipe.to_yaml().encode()).hexdigest(),
        "parent_sha256": baseline.model.sha256 or "",
    }
    if state.masks:
        metadata["sparsity"] = str(state.sparse.sparsity.pattern) if state.sparse else "unstructured"
        metadata["sparsity_layers"] = " ".join(name.removesuffix(".weight") for name in state.masks)
    return metadata


def _export_int8(path: Path, data: Data | None, log: RunLog) -> QuantizedModel | None:
    """Quantize the exported model and measure its metric."""
    if data is None or data.task is None:
        log.warning(f"{INT8_MODEL} not written: its ranges come from images, add --data")
        return None
    out = path.with_name(INT8_MODEL)
    with log.stage("quantise"):
        module = quantize_int8(path, out, data.calibration_batches(CALIBRATION_BATCH, images=CALIBRATION_IMAGES))
        quality = evaluate(module, data.val_batches(BATCH_SIZE), data.task.metric)
    return QuantizedModel(out, out.stat().st_size, quality)


def compare_on_device(
    exports: Exports, model: LoadedModel, recipe: Recipe, device: Device | None, data: Data | None, log: RunLog
) -> tuple[Comparison, ...]:
    """Measure dense against slim on the device, once for each batch size of the recipe.

    Args:
        exports: The files.
        model: The model, whose spec has the sizes that are free in a file.
        recipe: Batch sizes and seconds of measuring.
        device: Where to measure; None does not measure.
        data: Images to measure with, on this machine only: they are sent to no other.
        log: Events and times.

    Returns:
        One comparison for each batch size; the layers are profiled at the first.

    Raises:
        DeviceUnavailable: The device can't be reached.
    """
    if device is None:
        return ()
    real = data is not None and device.is_local
    samples = calibration_inputs(model, data if real else None, TIMED_IMAGES)
    inputs = named_samples(model, samples)
    with log.stage("measure"), device.open() as session:
        comparisons = tuple(
            compare_latency(
                session,
                exports.dense.path,
                exports.slim.path,
                batch=batch,
                seconds=recipe.bench.seconds,
                layers=batch == recipe.bench.batch[0],
                inputs=inputs,
                real=real,
                emit=log,
            )
            for batch in recipe.bench.batch
        )
    for clock in {comparison.environment["clock"] for comparison in comparisons} - {"wall"}:
        log.warning(f"latency is not wall time but {clock}")
    return comparisons
