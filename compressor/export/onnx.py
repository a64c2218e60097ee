"""Exports a module to an ONNX file: the file is checked, compared with PyTorch, and moved into place in one step."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from compressor.atomic_write import move_into_place
from compressor.bench.runner.traced_sizes import BATCH_DIMS, FREE_SIZES
from compressor.core import BatchDims, ExportedModel
from compressor.errors import CompressorError, ModelError, RecipeError, VerificationFailed
from compressor.execution.autocast import without_autocast
from compressor.execution.copies import copy_module
from compressor.execution.randomness import equal_randomness
from compressor.export.exporters import (
    Exporter,
    FlatOutputs,
    export_by_torchscript,
    trace_by_dynamo,
)
from compressor.export.free_sizes import Place, find_open_sizes, in_other_sizes, name_free_sizes
from compressor.export.onnx_passes import index_by_int64, keep_zero_padding, set_metadata
from compressor.export.parity import AT_CENTRE, CannotRun, Parity, check_parity
from compressor.export.refusals import REPORT_HINT, ExportRefused, first_line
from compressor.export.save_onnx import exported_file, external_files, save_checked, write_errors_named
from compressor.export.size_formulas import sizes_as_formulas
from compressor.export.tensor_names import TensorNames, name_tensors
from compressor.export.traced_network import TracedNetwork
from compressor.tensors import named_tensors

OPSETS = range(18, onnx.defs.onnx_opset_version() + 1)  # the exporter's functions need 18
CHUNK = 16  # largest batch of the parity check


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to export: by which exporter, and what has no fixed size in the file."""

    exporter: Exporter
    batch: bool = False
    sizes: frozenset[Place] = frozenset()  # besides the batch
    formulas: bool = False  # whether int() of sizes is a formula
    traced: TracedNetwork | None = None  # by an export that succeeded in this way
    notes: tuple[str, ...] = ()  # of that export

    def __str__(self) -> str:
        free = "free sizes" if self.sizes else "a free batch" if self.batch else "batch 1"
        return f"{self.exporter} exporter with {free}{', int() of sizes as a formula' if self.formulas else ''}"


class OutputsDiffer(CannotRun):
    """A file that runs has other outputs than its module."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that agrees with its module, its trace if it can be used again, and notes on how it was made."""

    opset: int
    parity: Parity
    traced: TracedNetwork | None
    notes: tuple[str, ...]


class OnnxExporter:
    """Exports forms of one network to ONNX files, and compares each file with PyTorch.

    torch's dynamo exporter is tried first. A model that it cannot convert with a free batch dimension is exported with
    batch 1, or by the TorchScript exporter, and the result's `notes` say so. A free batch dimension is accepted only if
    batches of several sizes agree with PyTorch: a trace may have taken the number of its batch. Later exports take the
    trace of the first, where the forms differ in widths alone.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        *,
        opset: int | None,
        dynamic_batch: bool,
        dynamic_sizes: bool = False,
        names: Sequence[str] = ("input",),
        batch_dims: BatchDims | None = None,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Set what all files have in common.

        Args:
            inputs: One tensor for each input, all with the same number of samples, for the comparison.
            opset: The ONNX operator set; None = the exporter's default.
            dynamic_batch: Whether the batch dimension should be free.
            dynamic_sizes: Whether every other size should be free that the module does not fix, where the batch is.
            names: Names of the inputs; those of outputs follow (see `TensorNames.of`).
            batch_dims: The batch dimension of each input, None for an input without one; by default the first of each.
            metadata: Stored in the files.

        Raises:
            RecipeError: The opset is not supported.
        """
        if opset is not None and opset not in OPSETS:
            raise RecipeError(
                "export/unsupported-opset",
                "export.opset",
                f"opset {opset} is not supported",
                f"choose {OPSETS[0]} to {OPSETS[-1]}, or auto for the exporter's default",
            )
        self._inputs = tuple(map(_plain, inputs))
        self._opset, self._dynamic_batch, self._dynamic_sizes = opset, dynamic_batch, dynamic_sizes
        self._names, self._dims = tuple(names), batch_dims or (0,) * len(inputs)
        self._metadata = dict(metadata)
        if set(self._dims) != {0}:
            self._metadata[BATCH_DIMS] = json.dumps(self._dims)
        self._ways: dict[frozenset[str], Attempt | None] = {}  # tensors of a module -> its way, None = to be traced

    def export(self, module: nn.Module, path: Path) -> ExportedModel:
        """Export a module and compare the file with it. A copy is exported; the module itself does not change.

        Args:
            module: The module, in any mode and on any device.
            path: The file to write.

        Returns:
            The file's facts: opset, size, hash, largest difference from PyTorch, and notes.

        Raises:
            ModelError: No exporter converts the model, or an output is complex.
            VerificationFailed: An output is not finite, or no exporter's file agrees with the module.
            RecipeError: The file cannot be written.
        """
        copied = copy_module(module).cpu().float().to(memory_format=torch.contiguous_format).eval()  # complex ones stay
        with write_errors_named(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            draft = Path(folder) / path.name
            written = self._first_that_agrees(copied, draft)
            if self._opset not in (None, written.opset):
                raise ModelError(
                    "export/opset-not-applied",
                    path.name,
                    f"the exporter wrote opset {written.opset}, not {self._opset}",
                    "set export.opset: auto",
                )
            move_into_place(draft, path, *external_files(draft))
        notes = (*written.notes, *_comparison_note(written.parity.compared))
        return exported_file(path, written.opset, written.parity, notes)

    def _first_that_agrees(self, copied: nn.Module, draft: Path) -> Written:
        """Try one way to export after the other."""
        single = split_batches(self._inputs, False, self._dims)[0]
        names = TensorNames.of(copied, single, self._names)
        tensors, refused = frozenset(named_tensors(copied, every_name=True)), dict[Attempt, Exception]()
        for attempt in self._attempts(copied, self._ways.get(tensors), refused):
            try:
                written = self._write(attempt, copied, names, draft)
            except (ExportRefused, CannotRun) as reason:
                if attempt.traced is not None:
                    self._ways[tensors] = None  # the code computes sizes from widths
                else:
                    refused[attempt] = reason
                continue
            if attempt.traced is None:
                others = [f"{other}: {first_line(reason)}" for other, reason in refused.items()]
                notes = (*others, f"exported by the {attempt}") if others else ()
                written = replace(written, notes=(*notes, *written.notes))
                if written.traced is not None:
                    self._ways.setdefault(tensors, replace(attempt, traced=written.traced, notes=written.notes))
            return written
        raise _no_file(draft.name, refused)

    def _attempts(
        self, copied: nn.Module, way: Attempt | None, refused: Mapping[Attempt, Exception]
    ) -> Iterator[Attempt]:
        """The ways to export a module, the best first; `way` is that of another form of it."""
        if way is not None:
            yield way
        if self._dynamic_batch and any(dim is not None for dim in self._dims):
            sizes = find_open_sizes(copied, self._inputs, self._dims) if self._dynamic_sizes else frozenset()
            for free in dict.fromkeys((sizes, frozenset[Place]())):
                yield (attempt := Attempt("dynamo", True, free))
                if isinstance(refused.get(attempt), CannotRun):  # a size of the trace may be left in it
                    yield replace(attempt, formulas=True)
            yield from (Attempt("dynamo"), Attempt("torchscript", True))
        else:
            yield Attempt("dynamo")
        yield Attempt("torchscript")

    def _write(self, attempt: Attempt, copied: nn.Module, names: TensorNames, draft: Path) -> Written:
        """Export in one way, and compare the file with the module."""
        batches = split_batches(self._inputs, attempt.batch, self._dims)
        example = batches[attempt.batch]
        module = copied if attempt.traced is not None else copy_module(copied)
        if not names.flat:
            module = FlatOutputs(module)
        model, traced, notes = self._model(attempt, module, example, names, draft)
        if len(model.graph.inputs) < len(names.inputs):
            unused = set(names.inputs).difference(value.name for value in model.graph.inputs)
            raise ExportRefused(f"no value in its trace depends on input {', '.join(sorted(unused))}")
        name_tensors(model, names)
        places = name_free_sizes(model, self._dims) if attempt.sizes else {}
        batches += in_other_sizes(copied, example, self._dims, model, places)
        keep_zero_padding(model)
        index_by_int64(model)
        sizes = {name: example[number].shape[dim] for name, ((number, dim), *_) in places.items()}
        free = {FREE_SIZES: json.dumps(sizes)} if sizes else {}
        set_metadata(model, {**self._metadata, **free, "exporter": attempt.exporter})
        save_checked(model, draft)
        parity = check_parity(draft, copied, batches, names)
        if not parity.ok:
            raise OutputsDiffer(f"its outputs differ from PyTorch's by {parity.max_abs_error:.2e} for {parity.differs}")
        return Written(model.opset_imports[""], parity, traced, notes)

    def _model(
        self, attempt: Attempt, module: nn.Module, example: tuple[Tensor, ...], names: TensorNames, draft: Path
    ) -> tuple[ir.Model, TracedNetwork | None, tuple[str, ...]]:
        """The ONNX model, its trace if there is a new one, and notes."""
        if attempt.traced is not None:
            return attempt.traced.with_tensors_of(module), None, attempt.notes
        free = self._dims if attempt.batch else None
        traced: TracedNetwork | None = None
        with without_autocast() as types, equal_randomness():
            if attempt.exporter == "torchscript":
                model = export_by_torchscript(module, example, free, self._opset, names, draft)
            else:
                with sizes_as_formulas(module) if attempt.formulas else nullcontext():
                    program = trace_by_dynamo(module, example, free, attempt.sizes, self._opset, names)
                traced, model = TracedNetwork.of(program, module)
        note = "forward turns on autocast to {}; the file computes in float32, as compared"
        return model, traced, tuple(note.format(kind) for kind in types[:1])


def _no_file(name: str, refused: Mapping[Attempt, Exception]) -> CompressorError:
    """The error where no attempt made a file: of the parity, if a file ran and has other outputs."""
    attempts: dict[str, list[str]] = defaultdict(list)  # of each reason
    for attempt, reason in refused.items():
        attempts[first_line(reason)].append(str(attempt))
    reasons = "; ".join(f"{' and '.join(names)}: {reason}" for reason, names in attempts.items())
    if any(isinstance(reason, OutputsDiffer) for reason in refused.values()):
        hint = f"try another export.opset, and {REPORT_HINT}"
        return VerificationFailed("parity/outputs-differ", name, f"no file agrees with PyTorch: {reasons}", hint)
    hints = (reason.hint for reason in refused.values() if isinstance(reason, ExportRefused))
    hint = next((hint for hint in hints if hint != REPORT_HINT), REPORT_HINT)
    return ModelError("export/every-exporter-failed", name, f"no exporter converts it: {reasons}", hint)


def _comparison_note(compared: str) -> list[str]:
    """What users should know where not the plain answers of the module were compared."""
    if compared == AT_CENTRE:
        return [f"the model draws random numbers: {compared} were compared"]
    if compared != "answers":
        return [f"rounding decides what the model answers, so {compared} were compared instead"]
    return []


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
