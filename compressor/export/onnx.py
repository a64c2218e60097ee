"""Exports a module to an ONNX file: the file is checked, compared with PyTorch, and moved into place in one step."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from compressor.atomic_write import move_into_place
from compressor.bench.runner.traced_sizes import BATCH_DIMS, FREE_SIZES
from compressor.core import BatchDims, ExportedModel
from compressor.errors import ModelError, RecipeError
from compressor.execution.autocast import without_autocast
from compressor.execution.copies import copy_module
from compressor.execution.randomness import equal_randomness
from compressor.export.exporters import Exporter, ExportRefused, TensorNames, first_line, run_exporter
from compressor.export.free_sizes import Place, find_open_sizes, name_free_sizes, with_smaller_sizes
from compressor.export.onnx_passes import keep_zero_padding, set_metadata
from compressor.export.parity import AT_CENTRE, CannotRun, check_parity
from compressor.tensors import is_flat, tree_names

OPSETS = range(18, onnx.defs.onnx_opset_version() + 1)  # the exporter's functions need 18
SINGLE_FILE = 2**31 - 2**24  # bytes of weights; protobuf is limited to 2 GiB
CHUNK = 16  # largest batch of the parity check


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to export: by which exporter, and what has no fixed size in the file."""

    exporter: Exporter
    batch: bool = False
    sizes: frozenset[Place] = frozenset()  # besides the batch

    def __str__(self) -> str:
        free = "free sizes" if self.sizes else "a free batch" if self.batch else "batch 1"
        return f"{self.exporter} exporter with {free}"


def export_onnx(
    module: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    *,
    opset: int | None,
    dynamic_batch: bool,
    dynamic_sizes: bool = False,
    metadata: Mapping[str, str],
    names: Sequence[str] = ("input",),
    batch_dims: BatchDims | None = None,
) -> ExportedModel:
    """Export a module and compare the file with PyTorch.

    torch's dynamo exporter is tried first. A model that it cannot convert with a free batch dimension is exported with
    batch 1, or by the TorchScript exporter, and the result's `notes` say so. A free batch dimension is accepted only if
    batches of several sizes run. A copy of the module is exported; the module itself does not change.

    Args:
        module: The module, in any mode and on any device.
        inputs: One tensor for each input, all with the same number of samples, for the comparison.
        path: The file to write.
        opset: The ONNX operator set; None = the exporter's default.
        dynamic_batch: Whether the batch dimension should be free.
        dynamic_sizes: Whether every other size should be free that the module does not fix, where the batch is.
        metadata: Stored in the file.
        names: Names of the inputs; outputs are named by key, field or index (see `tree_names`).
        batch_dims: The batch dimension of each input, None for an input without one; by default the first of each.

    Returns:
        The file's facts: opset, size, hash, largest difference from PyTorch, and notes.

    Raises:
        ModelError: No exporter converts the model.
        VerificationFailed: An output is not finite.
        RecipeError: The opset is not supported, or the file cannot be written.
    """
    if opset is not None and opset not in OPSETS:
        raise RecipeError(
            "export/unsupported-opset",
            "export.opset",
            f"opset {opset} is not supported",
            f"choose {OPSETS[0]} to {OPSETS[-1]}, or auto for the exporter's default",
        )
    copied = copy_module(module).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
    inputs = tuple(map(_plain, inputs))
    dims = batch_dims or (0,) * len(inputs)
    tensor_names = TensorNames(tuple(names), *_output_names(copied, split_batches(inputs, False, dims)[0], names))
    notes: list[str] = []
    open_sizes = find_open_sizes(copied, inputs, dims) if dynamic_sizes else frozenset()
    attempts = [Attempt("dynamo"), Attempt("torchscript")]
    if set(dims) != {0}:
        metadata = {**metadata, BATCH_DIMS: json.dumps(dims)}
    if dynamic_batch and any(dim is not None for dim in dims):
        attempts = [Attempt("dynamo", True), attempts[0], Attempt("torchscript", True), attempts[1]]
        if open_sizes:
            attempts.insert(0, Attempt("dynamo", True, open_sizes))
    with write_errors_named(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        for attempt in attempts:
            batches = split_batches(inputs, attempt.batch, dims)
            example, free = batches[attempt.batch], dims if attempt.batch else None
            try:
                module_copy = copy_module(copied)
                with without_autocast() as autocast_types, equal_randomness():
                    model = run_exporter(
                        module_copy, example, attempt.exporter, free, attempt.sizes, opset, tensor_names, draft
                    )
                places = name_free_sizes(model, dims) if attempt.sizes else {}
                if places:
                    batches.append(with_smaller_sizes(example, chain.from_iterable(places.values())))
                keep_zero_padding(model)
                sizes = {name: example[number].shape[dim] for name, ((number, dim), *_) in places.items()}
                traced = {FREE_SIZES: json.dumps(sizes)} if sizes else {}
                set_metadata(model, {**metadata, **traced, "exporter": attempt.exporter})
                save_checked(model, draft)
                parity = check_parity(draft, copied, batches)
                if places and not parity.ok:
                    raise CannotRun("its outputs differ from PyTorch's")
            except (ExportRefused, CannotRun) as reason:
                notes.append(f"{attempt}: {first_line(reason)}")
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
            notes.append(f"exported by the {attempt}")
        notes += _comparison_notes(parity.compared, autocast_types)
        move_into_place(draft, path, *external_files(draft))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size + sum(data.stat().st_size for data in external_files(path))
    return ExportedModel(path, version, size, digest, parity.max_abs_error, parity.ok, tuple(notes), parity.compared)


def _comparison_notes(compared: str, autocast_types: Sequence[str]) -> list[str]:
    """What users should know where not the plain answers of the module were compared."""
    notes = []
    if compared == AT_CENTRE:
        notes.append(f"the model draws random numbers: {compared} were compared")
    elif compared != "answers":
        notes.append(f"rounding decides what the model answers, so {compared} were compared instead")
    if autocast_types:
        notes.append(f"forward turns on autocast to {autocast_types[0]}; the file computes in float32, as compared")
    return notes


def split_batches(inputs: Sequence[Tensor], dynamic: bool, dims: BatchDims | None = None) -> list[tuple[Tensor, ...]]:
    """Split samples into the batches of the parity check.

    Args:
        inputs: One tensor for each input, all with the same number of samples.
        dynamic: False = batches of one; True = batches of 1, 2 and up to 16 samples. Tracing uses the batch of 2,
            because exporters treat a 1 as a constant.
        dims: The batch dimension of each input, None for an input without one; by default the first of each.

    Returns:
        For each batch, a tensor for each input. An input without a batch dimension is the same in all of them.
    """
    dims = dims or (0,) * len(inputs)
    count = next((tensor.shape[dim] for tensor, dim in zip(inputs, dims, strict=True) if dim is not None), None)
    if count is None:
        return [tuple(inputs)]
    if dynamic and count < 3:
        pairs = zip(inputs, dims, strict=True)
        inputs = [tensor if dim is None else torch.cat([tensor] * 3, dim) for tensor, dim in pairs]
        count *= 3
    sizes = [1] * count
    if dynamic:
        sizes = [1, 2, *[CHUNK] * ((count - 3) // CHUNK)]
        sizes += [count - sum(sizes)] * (sum(sizes) < count)
    parts = [
        [tensor] * len(sizes) if dim is None else torch.split(tensor, sizes, dim)
        for tensor, dim in zip(inputs, dims, strict=True)
    ]
    return list(zip(*parts, strict=True))


def _plain(tensor: Tensor) -> Tensor:
    """A contiguous tensor on the CPU; floating-point values become float32."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.float() if tensor.is_floating_point() else tensor


def _output_names(
    module: nn.Module, inputs: Sequence[Tensor], input_names: Sequence[str]
) -> tuple[tuple[str, ...], bool]:
    """Names of the outputs that differ from those of the inputs, and whether the output is flat."""
    with torch.no_grad():
        output = copy_module(module)(*inputs)
    names = tree_names(output)
    return tuple(f"output_{name}" if name in input_names else name for name in names), is_flat(output)


def save_checked(model: ir.Model, draft: Path) -> None:
    """Write a model, with its weights in a second file if they exceed 2 GB, and run the ONNX checker on it.

    Args:
        model: The model.
        draft: The file to write.

    Raises:
        ExportRefused: The ONNX checker reports an error.
    """
    save_unchecked(model, draft)
    problem = checker_error(draft)
    if problem is not None:
        raise ExportRefused(f"ONNX checker: {problem}")


def save_unchecked(model: ir.Model, draft: Path) -> None:
    """Write a model, with its weights in a second file if they exceed 2 GB.

    Args:
        model: The model.
        draft: The file to write.
    """
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, draft, external_data=f"{draft.name}.data" if weights > SINGLE_FILE else None)


def checker_error(path: Path) -> str | None:
    """What the ONNX checker says of a file; None where it says nothing."""
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        return first_line(error)
    return None


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
