"""Writes a model to an ONNX file: through PyTorch's exporters, or back into the file that it came from."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx_ir as ir
from torch import Tensor, nn

from compressor.atomic_write import move_into_place
from compressor.bench.runner.traced_sizes import BATCH_DIMS
from compressor.core import ExportedModel, LoadedModel, ModelSpec
from compressor.errors import RecipeError
from compressor.execution.copies import copy_module
from compressor.export.onnx import OnnxExporter, split_batches
from compressor.export.onnx_file import has_free_batch, validate_onnx
from compressor.export.parity import check_parity
from compressor.export.refusals import ExportRefused
from compressor.export.save_onnx import checker_error, external_files, save_unchecked, write_errors_named
from compressor.export.tensor_names import TensorNames
from compressor.models.checkpoint import sha256


class ModelExporter:
    """Writes forms of one model, dense or slim, to ONNX files, and compares each file with its module."""

    def __init__(
        self,
        spec: ModelSpec,
        inputs: Sequence[Tensor],
        *,
        opset: int | None,
        dynamic_batch: bool,
        dynamic_sizes: bool = False,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Set what all files have in common.

        Args:
            spec: What the modules were built from.
            inputs: One tensor for each input, all with the same number of samples, for the comparison.
            opset: The ONNX operator set; None = the exporter's default, or that of the given file.
            dynamic_batch: Whether the batch dimension should be free; a given file keeps its own.
            dynamic_sizes: Whether other sizes should be free where the module allows it; a given file keeps its own.
            metadata: Stored in the files.

        Raises:
            RecipeError: The opset is not supported.
        """
        self._spec, self._inputs, self._opset, self._metadata = spec, inputs, opset, metadata
        self._exporter: OnnxExporter | None = None
        if not is_onnx(spec.source):
            self._exporter = OnnxExporter(
                inputs, opset=opset, dynamic_batch=dynamic_batch, dynamic_sizes=dynamic_sizes,
                names=[model_input.name for model_input in spec.inputs], batch_dims=spec.batch_dims,
            )  # fmt: skip

    def export(self, module: nn.Module, path: Path, *, as_given: bool = False) -> ExportedModel:
        """Write a module to an ONNX file and compare the file with it.

        Args:
            module: The module.
            path: The file to write.
            as_given: The weights are those of the given ONNX file, which is copied.

        Returns:
            The file's facts.

        Raises:
            ModelError: No exporter converts the model.
            VerificationFailed: An output is not finite.
            RecipeError: The opset is not that of the given file, or the file cannot be written.
        """
        if self._exporter is not None:
            return self._exporter.export(module, path, self._metadata)
        return _write_back(module, self._spec, self._inputs, path, self._opset, self._metadata, as_given)


def is_onnx(source: str) -> bool:
    """Return whether a source is an ONNX file."""
    return source.endswith(".onnx")


def is_as_given(model: LoadedModel) -> bool:
    """Return whether a model has the weights of the ONNX file that it was loaded from."""
    return is_onnx(model.spec.source) and not model.kept and sha256(Path(model.spec.source)) == model.sha256


def _write_back(
    module: nn.Module,
    spec: ModelSpec,
    inputs: Sequence[Tensor],
    path: Path,
    opset: int | None,
    metadata: Mapping[str, str],
    as_given: bool,
) -> ExportedModel:
    from compressor.models.onnx_import.imported_module import ImportedModule
    from compressor.models.onnx_import.write_back import write_module

    given = Path(spec.source)
    copied = copy_module(module).cpu().float().eval()
    assert isinstance(copied, ImportedModule), "the module of an ONNX file"
    if set(copied.batch_dims) != {0}:
        metadata = {**metadata, BATCH_DIMS: json.dumps(copied.batch_dims)}
    samples = [tensor.detach().cpu().contiguous() for tensor in inputs]
    with write_errors_named(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        if as_given and not validate_onnx(given).external:
            shutil.copyfile(given, draft)
        else:
            single = split_batches(samples, False, spec.batch_dims)[0]
            save_unchecked(ir.from_proto(write_module(copied, given, single, metadata)), draft)
            problem = checker_error(draft)
            if problem is not None and checker_error(given) is None:  # runtimes take more than the checker does
                raise ExportRefused(f"ONNX checker: {problem}")
        free = has_free_batch(draft, copied.batch_dims) and not copied.samples_apart
        names = TensorNames(copied.inputs, copied.outputs)
        parity = check_parity(draft, copied, split_batches(samples, free, spec.batch_dims), names)
        version = ir.load(draft).opset_imports[""]
        if opset not in (None, version):
            hint = "set export.opset: auto, which keeps the opset of the given file"
            raise RecipeError("export/opset-of-file", "export.opset", f"the given file has opset {version}", hint)
        move_into_place(draft, path, *external_files(draft))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size + sum(data.stat().st_size for data in external_files(path))
    return ExportedModel(path, version, size, digest, parity.max_abs_error, parity.ok, (), parity.compared)
