"""Writes a model to an ONNX file: through PyTorch's exporters, or back into the file that it came from."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import onnx_ir as ir
from torch import Tensor, nn

from compressor.atomic_write import move_into_place
from compressor.bench.runner.traced_sizes import BATCH_DIMS
from compressor.core import ExportedModel, LoadedModel
from compressor.errors import ModelError, RecipeError
from compressor.execution.copies import copy_module
from compressor.export.onnx import OnnxExporter, split_batches
from compressor.export.onnx_file import has_free_batch, validate_onnx
from compressor.export.parity import CannotRun, Parity, check_parity
from compressor.export.refusals import first_line
from compressor.export.save_onnx import (
    checker_error,
    exported_file,
    external_files,
    save_unchecked,
    write_errors_named,
)
from compressor.export.tensor_names import TensorNames
from compressor.file_digest import sha256
from compressor.models.families.onnx_files import is_onnx


class ModelExporter(Protocol):
    """Writes forms of one model, dense or slim, to ONNX files, and compares each file with its module."""

    def export(self, module: nn.Module, path: Path) -> ExportedModel:
        """Write a module to an ONNX file and compare the file with it.

        Args:
            module: The module.
            path: The file to write.

        Returns:
            The file's facts.

        Raises:
            ModelError: No exporter converts the model, or the given file does not run with the slim weights.
            VerificationFailed: An output is not finite.
            RecipeError: The opset is not that of the given file, or the file cannot be written.
        """


def model_exporter(
    dense: LoadedModel,
    inputs: Sequence[Tensor],
    *,
    opset: int | None,
    dynamic_batch: bool,
    dynamic_sizes: bool = False,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> ModelExporter:
    """Choose how the forms of a model are written.

    Args:
        dense: The dense model.
        inputs: One tensor for each input, all with the same number of samples, for the comparison.
        opset: The ONNX operator set; None = the exporter's default, or that of the given file.
        dynamic_batch: Whether the batch dimension should be free; a given file keeps its own.
        dynamic_sizes: Whether other sizes should be free where the module allows it; a given file keeps its own.
        metadata: Stored in the files.

    Returns:
        The exporter.

    Raises:
        RecipeError: The opset is not supported.
    """
    if is_onnx(dense.spec.source):
        return GivenFileExporter(dense, inputs, opset, metadata)
    return OnnxExporter(
        inputs,
        opset=opset,
        dynamic_batch=dynamic_batch,
        dynamic_sizes=dynamic_sizes,
        names=[model_input.name for model_input in dense.spec.inputs],
        batch_dims=dense.spec.batch_dims,
        metadata=metadata,
    )


class GivenFileExporter:
    """Writes weights and sizes into the ONNX file that the model came from; with its own weights that is a copy."""

    def __init__(
        self, dense: LoadedModel, inputs: Sequence[Tensor], opset: int | None, metadata: Mapping[str, str]
    ) -> None:
        """Set what all files have in common.

        Args:
            dense: The dense model.
            inputs: One tensor for each input, for the comparison.
            opset: The operator set that the recipe asks for; None = that of the given file.
            metadata: Stored in the files, but for a copy.
        """
        self._given, self._dims = Path(dense.spec.source), dense.spec.batch_dims
        self._inputs = [tensor.detach().cpu().contiguous() for tensor in inputs]
        self._opset, self._metadata = opset, metadata
        as_given = not dense.kept and sha256(self._given) == dense.sha256 and not validate_onnx(self._given).external
        self._copied = dense.module if as_given else None

    def export(self, module: nn.Module, path: Path) -> ExportedModel:
        """Write a module into a copy of the given file, as `ModelExporter.export` does.

        Args:
            module: The module.
            path: The file to write.

        Returns:
            The file's facts.

        Raises:
            ModelError: The file is not usable with the weights of the module.
            VerificationFailed: An output is not finite.
            RecipeError: The opset is not that of the given file, or the file cannot be written.
        """
        with write_errors_named(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            draft = Path(folder) / path.name
            parity = self._write(module, draft)
            opset = ir.load(draft).opset_imports[""]
            if self._opset not in (None, opset):
                hint = "set export.opset: auto, which keeps the opset of the given file"
                raise RecipeError("export/opset-of-file", "export.opset", f"the given file has opset {opset}", hint)
            move_into_place(draft, path, *external_files(draft))
        return exported_file(path, opset, parity, ())

    def _write(self, module: nn.Module, draft: Path) -> Parity:
        """Write a file and compare it with the module."""
        from compressor.models.onnx_import.imported_module import ImportedModule
        from compressor.models.onnx_import.write_back import write_module

        copied = copy_module(module).cpu().float().eval()
        assert isinstance(copied, ImportedModule), "the module of an ONNX file"
        if module is self._copied:
            shutil.copyfile(self._given, draft)
        else:
            moved = {BATCH_DIMS: json.dumps(copied.batch_dims)} if set(copied.batch_dims) != {0} else {}
            single = split_batches(self._inputs, False, self._dims)[0]
            written = write_module(copied, self._given, single, {**self._metadata, **moved})
            save_unchecked(ir.from_proto(written), draft)
            problem = checker_error(draft)
            if problem is not None and checker_error(self._given) is None:  # runtimes take more than the checker does
                raise _unusable("export/written-back-invalid", draft, f"the ONNX checker refuses it: {problem}")
        free = has_free_batch(draft, copied.batch_dims) and not copied.samples_apart
        names = TensorNames(copied.inputs, copied.outputs)
        try:
            return check_parity(draft, copied, split_batches(self._inputs, free, self._dims), names)
        except CannotRun as error:
            raise _unusable("export/written-back-does-not-agree", draft, first_line(error)) from error


def _unusable(code: str, path: Path, problem: str) -> ModelError:
    hint = "report this with the given file; the model's PyTorch code can be compressed instead"
    return ModelError(code, path.name, f"the given file with the slim weights is not usable: {problem}", hint)
