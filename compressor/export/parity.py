"""Compares the outputs of an ONNX file with those of the PyTorch module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from compressor.core import ParityScope
from compressor.execution.autocast import without_autocast
from compressor.execution.central_draws import CentralDraws, UnknownDraw
from compressor.execution.copies import copy_module
from compressor.execution.run_copy import run_copy
from compressor.export.cpu_session import cpu_session
from compressor.export.discrete_ops import layer_outputs_before_discrete_ops
from compressor.export.onnx_file import has_float16_weights
from compressor.export.random_nodes import CannotCompare, with_central_draws
from compressor.export.reference import Batch, Outputs, Reference
from compressor.export.tensor_names import TensorNames
from compressor.export.tolerance import FLOAT16_FILE, FLOAT32_FILE, Array, FileRounding, compare_outputs
from compressor.file_module import FileModule, as_file_takes
from compressor.tensors import tree_leaves

AT_CENTRE: ParityScope = "answers with random numbers at their centres"


class CannotRun(Exception):
    """ONNX Runtime cannot run the file, or not at this batch size."""


@dataclass(frozen=True, slots=True)
class Parity:
    """`ok`: all outputs agree within the tolerance; else `differs` names inputs. `compared`: what was compared."""

    max_abs_error: float
    ok: bool
    compared: ParityScope = "answers"
    differs: str = ""


def module_outputs(module: nn.Module, inputs: Batch) -> list[Array]:
    """Run a copy of a module from equal random numbers, so that earlier calls do not change its outputs.

    Args:
        module: The module, on the CPU.
        inputs: A batch.

    Returns:
        Every tensor of its output.
    """
    with without_autocast():
        return [tensor.detach().cpu().numpy() for tensor in tree_leaves(run_copy(module, *inputs))]


def central_outputs(module: nn.Module, inputs: Batch) -> list[Array]:
    """Run a copy of a module with every random number at the centre of its distribution.

    Args:
        module: The module, on the CPU.
        inputs: A batch.

    Returns:
        Every tensor of its output.

    Raises:
        CannotRun: A distribution has no centre.
    """
    try:
        with torch.inference_mode(), CentralDraws(), without_autocast():  # type: ignore[no-untyped-call]
            return [tensor.detach().cpu().numpy() for tensor in tree_leaves(copy_module(module)(*inputs))]
    except UnknownDraw as error:
        raise CannotRun(f"{error}, which cannot be compared") from error


def check_parity(path: Path, module: nn.Module, batches: Sequence[Batch], names: TensorNames | None = None) -> Parity:
    """Compare ONNX Runtime (CPU, default options) with the module on every output of every batch.

    If outputs differ and the module itself is sensitive to rounding, its outputs cannot be compared: a detector that
    keeps the best of many boxes with equal scores may keep any of them. Then the outputs of the layers before the first
    discrete operator are compared instead (see `layer_outputs_before_discrete_ops`).

    If the file draws random numbers, they are set to the centres of their distributions, in the module and in a copy of
    the file (see `with_central_draws`).

    Args:
        path: The ONNX file.
        module: The module in float32, on the CPU.
        batches: The batches.
        names: The names that inputs and outputs have to have; None = any.

    Returns:
        The largest absolute difference, and whether it is within the tolerance (see `compare_outputs`).

    Raises:
        CannotRun: ONNX Runtime cannot run the file, or its outputs have other shapes or names.
        VerificationFailed: An output is not finite.
    """
    try:
        with with_central_draws(path) as central:
            if central is None:
                return _check_outputs(path, module, batches, module_outputs, names)
            open_session(path)
            return replace(_check_outputs(central, module, batches, central_outputs, names), compared=AT_CENTRE)
    except CannotCompare as reason:
        raise CannotRun(str(reason)) from reason


def _check_outputs(
    path: Path, module: nn.Module, batches: Sequence[Batch], outputs: Outputs, names: TensorNames | None
) -> Parity:
    """Compare a file without random numbers with what `outputs` computes."""
    session = open_session(path)
    if names is not None and (problem := names.difference(session)) is not None:
        raise CannotRun(problem)
    is_half = isinstance(module, FileModule) and has_float16_weights(path)  # exporters write float32 alone
    rounding = FLOAT16_FILE if is_half else FLOAT32_FILE
    places = [f"{path.name}, output {node.name}" for node in session.get_outputs()]
    largest, wrong = 0.0, list[str]()
    references = [Reference(module, batch, outputs, rounding) for batch in batches]
    for batch, reference in zip(batches, references, strict=True):
        actual = run_session(session, as_file_takes(module, batch))
        shapes = [array.shape for array in reference.outputs]
        if [array.shape for array in actual] != shapes:
            if not reference.is_rounding_sensitive():
                others = [array.shape for array in actual]
                raise CannotRun(f"{_inputs(batch)}: shapes {others} instead of {shapes}")
            wrong.append(_inputs(batch))
            continue
        for place, array, expected in zip(places, actual, reference.outputs, strict=True):
            if np.isfinite(expected).all() and not np.isfinite(array).all():
                raise CannotRun(f"{_inputs(batch)}: {place} is NaN or infinite, and PyTorch's is finite")
        difference = compare_outputs(actual, reference, places)
        largest, wrong = max(largest, difference.largest), wrong if difference.ok else [*wrong, _inputs(batch)]
    if wrong and any(reference.is_rounding_sensitive() for reference in references):
        return _check_layers(path, module, batches, rounding) or Parity(largest, False, differs=wrong[0])
    return Parity(largest, not wrong, differs=next(iter(wrong), ""))


def _check_layers(path: Path, module: nn.Module, batches: Sequence[Batch], rounding: FileRounding) -> Parity | None:
    """Compare the outputs of layers before the first discrete operator; None if they cannot be compared."""
    with layer_outputs_before_discrete_ops(path, module) as layers:
        if layers is None:
            return None
        session = open_session(layers.path)
        largest, wrong = 0.0, list[str]()
        for batch in batches:
            fed = as_file_takes(module, batch)
            reference = Reference(module, batch, layers.of, rounding, trials=0)
            actual = run_session(session, fed, layers.outputs)
            if [array.shape for array in actual] != [array.shape for array in reference.outputs]:
                return None
            names = [f"{path.name}, before a choice"] * len(actual)
            difference = compare_outputs(actual, reference, names)
            largest, wrong = max(largest, difference.largest), wrong if difference.ok else [*wrong, _inputs(batch)]
    return Parity(largest, not wrong, "layers before a choice by value", next(iter(wrong), ""))


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a file in ONNX Runtime, on the CPU.

    Raises:
        CannotRun: ONNX Runtime does not take the file.
    """
    try:
        return cpu_session(path)
    except Exception as error:
        raise CannotRun(str(error)) from error


def run_session(
    session: onnxruntime.InferenceSession, batch: Batch, outputs: Sequence[str] | None = None
) -> list[Array]:
    """Run a file on a batch.

    Args:
        session: The file.
        batch: A tensor for each input; floating-point ones are cast to the file's type.
        outputs: Names of the outputs; None for all.

    Returns:
        The outputs.

    Raises:
        CannotRun: ONNX Runtime reports an error.
    """
    try:
        nodes = session.get_inputs()
        arrays = {node.name: _as_type(tensor.numpy(), node.type) for node, tensor in zip(nodes, batch, strict=True)}
        result: list[Array] = session.run(outputs, arrays)
    except Exception as error:
        raise CannotRun(f"{_inputs(batch)}: {error}") from error
    return result


def _inputs(batch: Sequence[Tensor]) -> str:
    return f"inputs of {', '.join(str(tuple(tensor.shape)) for tensor in batch)}"


def _as_type(array: Array, runtime_type: str) -> Array:
    wider = {"tensor(double)": np.float64, "tensor(float16)": np.float16}.get(runtime_type)
    return array if wider is None or array.dtype.kind != "f" else array.astype(wider)
