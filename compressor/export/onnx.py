"""Exports a module to an ONNX file: the file is checked, compared with PyTorch, and moved into place in one step."""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from compressor.atomic_write import move_into_place
from compressor.core import ExportedModel
from compressor.errors import ModelError, RecipeError
from compressor.export.exporters import Exporter, ExportRefused, TensorNames, first_line, run_exporter
from compressor.export.onnx_passes import keep_zero_padding, set_metadata
from compressor.export.parity import CannotRun, check_parity
from compressor.tensors import is_flat, tree_names

OPSETS = range(18, onnx.defs.onnx_opset_version() + 1)  # the exporter's functions need 18
SINGLE_FILE = 2**31 - 2**24  # bytes of weights; protobuf is limited to 2 GiB
CHUNK = 16  # largest batch of the parity check


def export_onnx(
    module: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    *,
    opset: int | None,
    dynamic_batch: bool,
    metadata: Mapping[str, str],
    names: Sequence[str] = ("input",),
) -> ExportedModel:
    """Export a module and compare the file with PyTorch.

    torch's dynamo exporter is tried first. A model that it cannot convert with a free batch dimension is exported with
    batch 1, or by the TorchScript exporter, and the result's `notes` say so. A free batch dimension is accepted only if
    batches of several sizes run. A copy of the module is exported; the module itself does not change.

    Args:
        module: the module, in any mode and on any device.
        inputs: one tensor (n, ...) for each input, for the comparison.
        path: the file to write.
        opset: the ONNX operator set; None = the exporter's default.
        dynamic_batch: whether the batch dimension should be free.
        metadata: stored in the file.
        names: names of the inputs; outputs are named by key, field or index (see `tree_names`).

    Returns:
        The file's facts: opset, size, hash, largest difference from PyTorch, and notes.

    Raises:
        ModelError: no exporter converts the model.
        VerificationFailed: an output is not finite.
        RecipeError: the opset is not supported, or the file cannot be written.
    """
    if opset is not None and opset not in OPSETS:
        raise RecipeError(
            "export/unsupported-opset",
            "export.opset",
            f"opset {opset} is not supported",
            f"choose {OPSETS[0]} to {OPSETS[-1]}, or auto for the exporter's default",
        )
    copied = copy.deepcopy(module).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
    inputs = tuple(map(_plain, inputs))
    tensor_names = TensorNames(tuple(names), *_output_names(copied, [tensor[:1] for tensor in inputs], names))
    notes: list[str] = []
    attempts: list[tuple[Exporter, bool]] = [("dynamo", False), ("torchscript", False)]
    if dynamic_batch:
        attempts = [("dynamo", True), ("dynamo", False), ("torchscript", True), ("torchscript", False)]
    with write_errors_named(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        for exporter, dynamic in attempts:
            batches = split_batches(inputs, dynamic)
            try:
                module_copy = copy.deepcopy(copied)
                model = run_exporter(module_copy, batches[dynamic], exporter, dynamic, opset, tensor_names, draft)
                keep_zero_padding(model)
                set_metadata(model, {**metadata, "exporter": exporter})
                save_checked(model, draft)
                parity = check_parity(draft, copied, batches)
            except (ExportRefused, CannotRun) as reason:
                notes.append(f"{exporter} exporter, {'free batch' if dynamic else 'batch 1'}: {first_line(reason)}")
                continue
            break
        else:
            raise ModelError(
                "export/every-exporter-failed",
                path.name,
                f"no exporter converts it: {'; '.join(notes)}",
                "report this with the model's name",
            )
        version = model.opset_imports[""]
        if opset is not None and version != opset:
            raise ModelError(
                "export/opset-not-applied",
                path.name,
                f"the exporter wrote opset {version}, not {opset}",
                "set export.opset: auto",
            )
        if notes:
            notes.append(f"exported by the {exporter} exporter with {'a free batch' if dynamic else 'batch 1'}")
        if parity.compared != "answers":
            notes.append(f"rounding decides what the model answers, so {parity.compared} were compared instead")
        move_into_place(draft, path, *external_files(draft))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size + sum(data.stat().st_size for data in external_files(path))
    return ExportedModel(path, version, size, digest, parity.max_abs_error, parity.ok, tuple(notes), parity.compared)


def split_batches(inputs: Sequence[Tensor], dynamic: bool) -> list[tuple[Tensor, ...]]:
    """Split samples into the batches of the parity check.

    Args:
        inputs: one tensor (n, ...) for each input.
        dynamic: False = batches of one; True = batches of 1, 2 and up to 16 samples. Tracing uses the batch of 2,
            because exporters treat a 1 as a constant.

    Returns:
        For each batch, a tensor for each input.
    """
    count = len(inputs[0])
    if not dynamic:
        return list(zip(*(torch.split(tensor, 1) for tensor in inputs), strict=True))
    if count < 3:
        inputs, count = [torch.cat([tensor] * 3) for tensor in inputs], 3 * count
    sizes = [1, 2, *[CHUNK] * ((count - 3) // CHUNK)]
    sizes += [count - sum(sizes)] * (sum(sizes) < count)
    return list(zip(*(torch.split(tensor, sizes) for tensor in inputs), strict=True))


def _plain(tensor: Tensor) -> Tensor:
    """A contiguous tensor on the CPU; floating-point values become float32."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.float() if tensor.is_floating_point() else tensor


def _output_names(
    module: nn.Module, inputs: Sequence[Tensor], input_names: Sequence[str]
) -> tuple[tuple[str, ...], bool]:
    """Names of the outputs that differ from those of the inputs, and whether the output is flat."""
    with torch.no_grad():
        output = module(*inputs)
    names = tree_names(output)
    return tuple(f"output_{name}" if name in input_names else name for name in names), is_flat(output)


def save_checked(model: ir.Model, draft: Path) -> None:
    """Write a model, with its weights in a second file if they exceed 2 GB, and run the ONNX checker on it.

    Args:
        model: the model.
        draft: the file to write.

    Raises:
        ExportRefused: the ONNX checker reports an error.
    """
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, draft, external_data=f"{draft.name}.data" if weights > SINGLE_FILE else None)
    try:
        onnx.checker.check_model(str(draft))
    except onnx.checker.ValidationError as error:
        raise ExportRefused(f"ONNX checker: {first_line(error)}") from error


def external_files(path: Path) -> list[Path]:
    """The second file that `save_checked` may have written."""
    data = path.with_name(f"{path.name}.data")
    return [data] if data.exists() else []


@contextlib.contextmanager
def write_errors_named(path: Path) -> Iterator[None]:
    """Raise RecipeError if `path` cannot be written. A full disk is left to the caller, who may resume the run."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RecipeError(
            "output/not-writable",
            str(path),
            f"it cannot be written ({error.strerror or error})",
            "choose another --out",
        ) from error
