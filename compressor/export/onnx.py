"""A module becomes an ONNX file: exported, checked, compared with PyTorch, and moved into place in one step."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from compressor.atomic_write import move_into_place
from compressor.core import BatchDims, ExportedModel
from compressor.errors import ModelError, RecipeError
from compressor.execution.autocast import without_autocast
from compressor.execution.copies import copy_module
from compressor.execution.randomness import equal_randomness
from compressor.export.parity import AT_CENTRE, CannotRun, check_parity
from compressor.tensors import is_flat, tree_leaves, tree_names

Exporter = Literal["dynamo", "torchscript"]

OPSETS = range(18, onnx.defs.onnx_opset_version() + 1)  # the exporter's own functions start at 18
SINGLE_FILE = 2**31 - 2**24  # bytes of weights; protobuf ends at 2 GiB
CHUNK = 16  # images at once in the parity check
BATCH_DIMS = "batch_dims"  # metadata: where the batch is in each input, where it is not first everywhere
KEPT_METADATA = "pkg.torch.onnx.name_scopes"  # which module a node came from


class ExportRefused(Exception):
    """An exporter that can't do this model; the message is its reason, one line."""


def export_onnx(
    module: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    *,
    opset: int | None,
    dynamic_batch: bool,
    metadata: Mapping[str, str],
    names: Sequence[str] = ("input",),
    batch_dims: Sequence[int | None] | None = None,
) -> ExportedModel:
    """Write `module` to `path` and compare the file with PyTorch on `inputs`, a batch of each.

    Inputs are called as `names` says, outputs by their keys, fields or places (see outputs.py). `batch_dims`: where the
    batch is in each of them, None for nowhere; first, where nothing is said.
    torch's dynamo exporter with a free batch dimension where asked; a model it refuses is exported with batch 1, or
    by the TorchScript exporter, and the result's `notes` say so. `opset` None is the exporter's own choice. A free
    batch is claimed only after batches of several sizes ran. The module is left as it is: a copy is exported.
    Raises ModelError when no exporter takes the model, VerificationFailed for non-finite outputs.
    """
    if opset is not None and opset not in OPSETS:
        raise RecipeError(
            "export/unsupported-opset",
            "export.opset",
            f"opset {opset} is not supported",
            f"choose {OPSETS[0]} to {OPSETS[-1]}, or auto for the exporter's default",
        )
    copied = copy_module(module).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
    inputs = tuple(_plain(each) for each in inputs)
    dims: BatchDims = tuple(batch_dims or (0,) * len(inputs))
    taken = TensorNames(tuple(names), *_outputs(copied, split_exporters(inputs, False, dims)[0], names))
    notes: list[str] = []
    attempts: list[tuple[Exporter, bool]] = [("dynamo", False), ("torchscript", False)]
    if set(dims) != {0}:
        metadata = {**metadata, BATCH_DIMS: json.dumps(dims)}
    if dynamic_batch and any(dim is not None for dim in dims):
        attempts = [("dynamo", True), ("dynamo", False), ("torchscript", True), ("torchscript", False)]
    with writing(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        for exporter, dynamic in attempts:
            batches = split_exporters(inputs, dynamic, dims)
            try:
                with without_autocast() as lower, equal_randomness():
                    model = traced_program(
                        copy_module(copied), batches[dynamic], exporter, dims if dynamic else None, opset, taken, draft
                    )
                keep_zeros(model)
                set_metadata(model, {**metadata, "exporter": exporter})
                save(model, draft)
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
        if parity.compared == AT_CENTRE:
            notes.append(f"the model draws random numbers: {parity.compared} were compared")
        elif parity.compared != "answers":
            notes.append(f"rounding decides what the model answers, so {parity.compared} were compared instead")
        if lower:
            notes.append(f"forward turns autocast to {lower[0]} on: the file computes in float32, and was compared so")
        move_into_place(draft, path, *external_files(draft))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size + sum(data.stat().st_size for data in external_files(path))
    return ExportedModel(path, version, size, digest, parity.max_abs_error, parity.ok, tuple(notes), parity.compared)


def split_exporters(inputs: Sequence[Tensor], dynamic: bool, dims: BatchDims | None = None) -> list[tuple[Tensor, ...]]:
    """Take samples apart into batches.

    Args:
        inputs: One tensor for each input, all with the same number of samples.
        dynamic: Whether batches may have several sizes: then 1, 2 and up to 16, of which tracing takes the 2, since a 1
            would stay. Else batches of one.
        dims: Where the batch is in each input, None for nowhere; first, where nothing is said.
    """
    dims = dims or (0,) * len(inputs)
    count = next((each.shape[dim] for each, dim in zip(inputs, dims, strict=True) if dim is not None), None)
    if count is None:
        return [tuple(inputs)]
    if dynamic and count < 3:
        inputs = [each if dim is None else torch.cat([each] * 3, dim) for each, dim in zip(inputs, dims, strict=True)]
        count *= 3
    sizes = [1] * count
    if dynamic:
        sizes = [1, 2, *[CHUNK] * ((count - 3) // CHUNK)]
        sizes += [count - sum(sizes)] * (sum(sizes) < count)
    parts = [
        [each] * len(sizes) if dim is None else torch.split(each, sizes, dim)
        for each, dim in zip(inputs, dims, strict=True)
    ]
    return list(zip(*parts, strict=True))


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, in one piece, and float32 unless it holds whole numbers."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.float() if tensor.is_floating_point() else tensor


@dataclass(frozen=True, slots=True)
class TensorNames:
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    flat: bool  # whether exporters take the output as it is


def _outputs(module: nn.Module, inputs: Sequence[Tensor], taken: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    with torch.no_grad():
        answer = copy_module(module)(*inputs)
    found = tree_names(answer)
    return tuple(f"output_{name}" if name in taken else name for name in found), is_flat(answer)


class FlatOutputs(nn.Module):
    """The module with its dicts, dataclasses and nested sequences of tensors as one tuple."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tree_leaves(self.module(*inputs)))


def traced_program(
    module: nn.Module,
    example: tuple[Tensor, ...],
    exporter: Exporter,
    free: BatchDims | None,
    opset: int | None,
    names: TensorNames,
    draft: Path,
) -> ir.Model:
    """Run one exporter without its chatter: it prints whole graphs and warns about its own deprecations.

    `free`: dimensions of the inputs that are left open, as the batch; None for none.
    Raises Refused with the root cause. Which exceptions an exporter may raise is nowhere stated, so all are taken.
    """
    if not names.flat:
        module = FlatOutputs(module)
    batch = torch.export.Dim("batch")
    shapes = tuple(None if dim is None else {dim: batch} for dim in free or ())
    axes = {name: {dim: "batch"} for name, dim in zip(names.inputs, free or (), strict=False) if dim is not None}
    if free is not None and set(free) == {0}:
        axes |= {name: {0: "batch"} for name in names.outputs}
    silence = io.StringIO()
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        try:
            if exporter == "dynamo":
                program = torch.onnx.export(
                    module,
                    example,
                    dynamo=True,
                    dynamic_shapes=(shapes if names.flat else (shapes,)) if free else None,
                    input_names=list(names.inputs),
                    output_names=list(names.outputs),
                    opset_version=opset,
                    verbose=False,
                )
                assert program is not None
                return program.model
            torch.onnx.export(
                module,
                example,
                str(draft),
                dynamo=False,
                dynamic_axes=axes or None,
                input_names=list(names.inputs),
                output_names=list(names.outputs),
                opset_version=opset,
                verbose=False,
            )
            return ir.load(draft)
        except Exception as error:
            raise ExportRefused(first_line(root_cause(error))) from error


def set_metadata(model: ir.Model, metadata: Mapping[str, str]) -> None:
    """Put `metadata` in; of the exporter's own keep only the module names, for its stack traces hold local paths."""
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        scopes = node.metadata_props.get(KEPT_METADATA)
        node.metadata_props.clear()
        node.doc_string = None
        if scopes:
            node.metadata_props[KEPT_METADATA] = scopes


def save(model: ir.Model, draft: Path) -> None:
    """Weights inside the file unless they are over 2 GB. Raises Refused when the ONNX checker objects."""
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, draft, external_data=f"{draft.name}.data" if weights > SINGLE_FILE else None)
    try:
        onnx.checker.check_model(str(draft))
    except onnx.checker.ValidationError as error:
        raise ExportRefused(f"ONNX checker: {first_line(error)}") from error


def external_files(path: Path) -> list[Path]:
    data = path.with_name(f"{path.name}.data")
    return [data] if data.exists() else []


def root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A place that can't be written is the user's to mend; what of a full disk, whoever can resume has to say."""
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


ALMOST_ZERO = np.finfo(np.float32).tiny  # 1.2e-38, far below what float32 arithmetic on activations resolves


def keep_zeros(model: ir.Model) -> None:
    """Give every Pad of zeros in front of a MaxPool a value that is not quite zero."""
    almost: ir.Value | None = None
    for node in list(model.graph):
        if node.op_type != "Pad" or not _pads_zeros(node):
            continue
        if any(user.op_type == "MaxPool" for user in node.outputs[0].consumers()):
            almost = almost or _almost_zero(model)
            node.resize_inputs(max(3, len(node.inputs)))
            zero = node.inputs[2]
            node.replace_input_with(2, almost)
            if zero is not None and zero.name is not None and not zero.uses():
                model.graph.initializers.pop(zero.name, None)


def _almost_zero(model: ir.Model) -> ir.Value:
    value = ir.Value(name="almost_zero", const_value=ir.tensor(np.float32(ALMOST_ZERO), name="almost_zero"))
    model.graph.register_initializer(value)
    return value


def _pads_zeros(node: ir.Node) -> bool:
    mode = node.attributes.get("mode")
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is not None and mode.as_string() != "constant":
        return False
    return value is None or (value.const_value is not None and not value.const_value.numpy().any())
