"""A module becomes an ONNX file: exported, checked, compared with PyTorch, and moved into place in one step."""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from compressor.core import ExportedModel
from compressor.deploy.parity import CannotRun, answers, check_parity
from compressor.errors import ModelError, RecipeError

Exporter = Literal["dynamo", "torchscript"]

OPSETS = range(18, onnx.defs.onnx_opset_version() + 1)  # the exporter's own functions start at 18
SINGLE_FILE = 2**31 - 2**24  # bytes of weights; protobuf ends at 2 GiB
CHUNK = 16  # images at once in the parity check
KEPT_METADATA = "pkg.torch.onnx.name_scopes"  # which module a node came from


class Refused(Exception):
    """An exporter that can't do this model; the message is its reason, one line."""


def export_onnx(
    module: nn.Module,
    inputs: Tensor,
    path: Path,
    *,
    opset: int | None,
    dynamic_batch: bool,
    metadata: Mapping[str, str],
) -> ExportedModel:
    """Write `module` to `path` and compare the file with PyTorch on `inputs` (n, C, H, W).

    torch's dynamo exporter with a free batch dimension where asked; a model it refuses is exported with batch 1, or
    by the TorchScript exporter, and the result's `notes` say so. `opset` None is the exporter's own choice. A free
    batch is claimed only after batches of several sizes ran. The module is left as it is: a copy is exported.
    Raises ModelError when no exporter takes the model, VerificationFailed for non-finite outputs.
    """
    if opset is not None and opset not in OPSETS:
        raise RecipeError(
            "opset", "export.opset", str(opset), f"choose {OPSETS[0]} to {OPSETS[-1]}, or auto for the exporter's own"
        )
    copied = copy.deepcopy(module).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
    inputs = inputs.detach().to("cpu", torch.float32).contiguous()
    outputs = len(answers(copied, inputs[:1]))
    notes: list[str] = []
    attempts: list[tuple[Exporter, bool]] = [("dynamo", False), ("torchscript", False)]
    if dynamic_batch:
        attempts = [("dynamo", True), ("dynamo", False), ("torchscript", True), ("torchscript", False)]
    with writing(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        for exporter, dynamic in attempts:
            batches = split(inputs, dynamic)
            try:
                model = trace(copy.deepcopy(copied), batches[dynamic], exporter, dynamic, opset, outputs, draft)
                describe(model, {**metadata, "exporter": exporter})
                save(model, draft)
                parity = check_parity(draft, copied, batches)
            except (Refused, CannotRun) as reason:
                notes.append(f"{exporter} exporter, {'free batch' if dynamic else 'batch 1'}: {first_line(reason)}")
                continue
            break
        else:
            raise ModelError("can't export", path.name, "; ".join(notes), "report it with the model's name")
        version = model.opset_imports[""]
        if opset is not None and version != opset:
            raise ModelError("opset", path.name, f"the exporter wrote {version}, not {opset}", "set export.opset: auto")
        if notes:
            notes.append(f"exported by the {exporter} exporter with {'a free batch' if dynamic else 'batch 1'}")
        publish(draft, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size + sum(data.stat().st_size for data in external_files(path))
    return ExportedModel(path, version, size, digest, parity.max_abs_error, parity.ok, tuple(notes))


def split(inputs: Tensor, dynamic: bool) -> list[Tensor]:
    """Batches of one image, or, with a free batch, of 1, 2 and up to 16; tracing takes the 2, since a 1 would stay."""
    if not dynamic:
        return list(torch.split(inputs, 1))
    enough = inputs if len(inputs) >= 3 else inputs.repeat(3, 1, 1, 1)
    return [enough[:1], enough[1:3], *(torch.split(enough[3:], CHUNK) if len(enough) > 3 else ())]


def trace(
    module: nn.Module, example: Tensor, exporter: Exporter, dynamic: bool, opset: int | None, outputs: int, draft: Path
) -> ir.Model:
    """Run one exporter without its chatter: it prints whole graphs and warns about its own deprecations.

    Raises Refused with the root cause. Which exceptions an exporter may raise is nowhere stated, so all are taken.
    """
    names = ["output"] if outputs == 1 else [f"output_{place}" for place in range(outputs)]
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
                    (example,),
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic else None,
                    input_names=["input"],
                    output_names=names,
                    opset_version=opset,
                    verbose=False,
                )
                assert program is not None
                return program.model
            torch.onnx.export(
                module,
                (example,),
                str(draft),
                dynamo=False,
                dynamic_axes={name: {0: "batch"} for name in ("input", *names)} if dynamic else None,
                input_names=["input"],
                output_names=names,
                opset_version=opset,
                verbose=False,
            )
            return ir.load(draft)
        except Exception as error:
            raise Refused(first_line(root_cause(error))) from error


def describe(model: ir.Model, metadata: Mapping[str, str]) -> None:
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
        raise Refused(f"ONNX checker: {first_line(error)}") from error


def publish(draft: Path, path: Path) -> None:
    """Move the finished file, after the weights it may name, over the final one."""
    for data in external_files(draft):
        os.replace(data, path.parent / data.name)
    os.replace(draft, path)


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
        raise RecipeError("can't write", str(path), str(error.strerror or error), "choose another --out") from error
