"""torch's two ONNX exporters."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.onnx import ONNXProgram

from compressor.core import BatchDims
from compressor.export.exact_zeros import zeros_matched_exactly
from compressor.export.exporter_shortcuts import operators_listed_once, pairs_matched_by_first
from compressor.export.free_sizes import note_largest_sizes
from compressor.export.onnx_passes import register_constants
from compressor.export.refusals import refusal
from compressor.export.tensor_names import TensorNames
from compressor.silence import silent_output, silent_streams
from compressor.tensors import tree_leaves

Exporter = Literal["dynamo", "torchscript"]


class FlatOutputs(nn.Module):
    """The module with its output flattened: dicts, dataclasses and nested sequences become one tuple of tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tree_leaves(self.module(*inputs)))


def trace_by_dynamo(
    module: nn.Module,
    example: tuple[Tensor, ...],
    free: BatchDims | None,
    open_sizes: Collection[tuple[int, int]],
    opset: int | None,
    names: TensorNames,
) -> ir.Model:
    """Run the dynamo exporter. Its model is not optimized: parameters and buffers have the names of the module.

    Args:
        module: A copy of the module, which the exporter may change.
        example: A batch to trace with.
        free: For each input the dimension that gets no fixed size, which is the batch; None for an input without one.
            None for all = the example's sizes are fixed.
        open_sizes: Other dimensions, as (number of the input, dimension), that get no fixed size unless the network
            fixes it.
        opset: The operator set; None = the default.
        names: Names in the file.

    Returns:
        The ONNX model.

    Raises:
        ExportRefused: The exporter raised an exception; the message is the root cause.
    """
    batch = torch.export.Dim("batch")
    shapes = tuple(
        {dim: torch.export.Dim.AUTO for at, dim in open_sizes if at == number} | ({} if own is None else {own: batch})
        for number, own in enumerate(free or ())
    )
    with _quiet(), operators_listed_once():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            dynamic_shapes=(shapes if names.flat else (shapes,)) if free else None,
            input_names=list(names.inputs),
            output_names=list(names.outputs),
            opset_version=opset,
            optimize=False,
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns a program"
    assert program.exported_program is not None, "of the module that it traced"
    note_largest_sizes(program.model, program.exported_program.range_constraints)
    return program.model


def optimized(model: ir.Model) -> ir.Model:
    """Fold constants and remove what nothing needs, as the dynamo exporter does; the model itself may change."""
    with _quiet(), pairs_matched_by_first(), zeros_matched_exactly():
        program = ONNXProgram(model, None)
        program.optimize()
    register_constants(program.model)
    return program.model


def export_by_torchscript(
    module: nn.Module,
    example: tuple[Tensor, ...],
    free: BatchDims | None,
    opset: int | None,
    names: TensorNames,
    draft: Path,
) -> ir.Model:
    """Run the TorchScript exporter.

    Args:
        module: A copy of the module, which the exporter may change.
        example: A batch to trace with.
        free: As in `trace_by_dynamo`.
        opset: The operator set; None = the default.
        names: Names in the file.
        draft: A path that the exporter may write to.

    Returns:
        The ONNX model.

    Raises:
        ExportRefused: The exporter raised an exception; the message is the root cause.
    """
    axes = {name: {dim: "batch"} for name, dim in zip(names.inputs, free or (), strict=False) if dim is not None}
    if free is not None and set(free) == {0}:
        axes |= {name: {0: "batch"} for name in names.outputs}
    with _quiet(), silent_streams():
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Run an exporter without its output: it prints graphs, and warnings about its own deprecations.

    Its exceptions are not documented, so that any becomes ExportRefused.
    """
    try:
        with warnings.catch_warnings(action="ignore"), silent_output():
            yield
    except Exception as error:
        raise refusal(error) from error
