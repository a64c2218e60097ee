"""Load an ONNX file: build its module, and prove that both compute the same before anything is removed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from compressor.core import LoadedModel, ModelInput, ModelSpec
from compressor.errors import CompressorError, ModelError
from compressor.execution.differences import is_close
from compressor.export.parity import CannotRun, check_parity, open_session, run_session
from compressor.file_digest import sha256
from compressor.file_module import arranged
from compressor.models.checkpoints.finite_weights import count_not_finite
from compressor.models.inputs.example_inputs import example_inputs, spec_inputs
from compressor.models.inputs.user_inputs import ShowSamples, no_samples
from compressor.models.onnx_import.build_graph import build_imported
from compressor.models.onnx_import.first_difference import first_difference
from compressor.models.onnx_import.graph_inputs import (
    batch_dims_of_file,
    free_sizes,
    input_candidates,
    unbounded_integers,
)
from compressor.models.onnx_import.if_nodes import Branches, BranchKnown
from compressor.models.onnx_import.imported_module import ImportedModule
from compressor.models.onnx_import.integer_values import has_finite_answers, no_valid_integers, other_integers
from compressor.models.onnx_import.node import NODE_FAILS
from compressor.models.onnx_import.read_graph import Graph, read_graph
from compressor.tensors import named_tensors, tree_leaves

SAMPLES_APART = "samples_apart"
"""Argument of the spec: the file is fixed at one sample, and its operators mix samples where there are more."""
BRANCHES = "branches"
"""Argument of the spec: [name, condition] of each If of the file, in the order in which they are replaced."""
RELATIVE_TOLERANCE = 1e-3  # between a batch and its samples
MAX_CLASSES = 10**6

OpenSession = Callable[[Path], onnxruntime.InferenceSession]
"""a file -> its session, which is opened once"""


def load_onnx(
    path: Path, shapes: Sequence[tuple[int, ...]] | None = None, samples: ShowSamples = no_samples
) -> LoadedModel:
    """Load an ONNX file as a module of real layers.

    Args:
        path: The file.
        shapes: The shape of each input without the batch; None takes those of the file, or finds ones that run.
        samples: Samples of the data; read only if the outputs are not finite for the usual integers.

    Returns:
        The model. The file itself, run by ONNX Runtime, answers as it does.

    Raises:
        ModelError: The file is no model, has operators that cannot be imported, or the module answers differently.
        VerificationFailed: A weight or an answer is not finite.
    """
    built = _first_that_runs(read_graph(path), shapes, path, samples)
    graph, module, inputs, session = built.graph, built.module, built.inputs, built.session
    spec = ModelSpec(str(path.resolve()), inputs)
    arguments = _batching(module, spec, takes_batches(session, module, spec))
    if graph.branches:
        arguments = {**arguments, BRANCHES: [list(branch) for branch in graph.branches]}
    spec = replace(spec, arguments=arguments, num_classes=_classes(module, spec))
    module.samples_apart = bool(spec.arguments.get(SAMPLES_APART))
    guessed = free_sizes(graph) if shapes is None else {}
    model = LoadedModel(module, spec, str(path), sha256=sha256(path), guessed_sizes=guessed)
    notes = [f"{len(graph.nodes)} nodes imported from {path.name}, {_words(inputs)}"]
    if graph.branches:
        count = f"{len(graph.branches)} If nodes depend" if len(graph.branches) > 1 else "one If node depends"
        notes.append(f"{count} on input shapes only; the branch that runs for these shapes takes its place")
    return replace(model, notes=(*notes, _require_parity(path, graph, model, session)))


def branches_of(spec: ModelSpec) -> Branches:
    """Return the Ifs of the file that are replaced by a branch, and their conditions."""
    stored: Any = spec.arguments.get(BRANCHES, ())
    return tuple((str(name), bool(condition)) for name, condition in stored)


def build_from_graph(graph: Graph, spec: ModelSpec) -> ImportedModule:
    """Build the module of a graph.

    Args:
        graph: The graph.
        spec: Its inputs, and whether samples run one after the other.

    Returns:
        The module in eval mode.

    Raises:
        ModelError: A node cannot be imported.
    """
    dims = batch_dims_of_file(graph.signature)
    module = build_imported(graph, arranged(spec_inputs(spec, 1), dims))
    module.samples_apart = bool(spec.arguments.get(SAMPLES_APART))
    module.batch_dims = dims
    return module


def _session(path: Path) -> onnxruntime.InferenceSession:
    try:
        return open_session(path)
    except CannotRun as error:
        problem = f"the file itself is invalid: ONNX Runtime cannot open it ({str(error)[:300]})"
        raise ModelError(
            "onnx-model/cannot-run", str(path), problem, "export it again, or check the download"
        ) from None


@dataclass(frozen=True, slots=True)
class _Built:
    """The module of a file for some inputs, on which both run."""

    graph: Graph
    module: ImportedModule
    inputs: tuple[ModelInput, ...]
    session: onnxruntime.InferenceSession


def _first_that_runs(
    given: Graph, shapes: Sequence[tuple[int, ...]] | None, path: Path, samples: ShowSamples
) -> _Built:
    """Find sizes for what the file leaves free, and integers for which its answers are finite."""
    session = cache(_session)
    unbounded = unbounded_integers(given)
    candidates = partial(input_candidates, given, shapes, str(path))
    usual = _first_built(given, candidates(), path, session)
    if isinstance(usual, _Built) and (not unbounded or _answers_are_finite(usual, unbounded)):
        return usual
    shown = samples() if unbounded else {}
    for inputs in (usual.inputs,) if isinstance(usual, _Built) else candidates() if unbounded else ():
        for others in other_integers(inputs, unbounded, shown):
            built = _built(given, others, path, session)
            if isinstance(built, _Built) and _answers_are_finite(built, unbounded):
                return built
    if isinstance(usual, CompressorError):
        if usual.code == NODE_FAILS:
            session(path)  # a file that ONNX Runtime refuses, too, is to blame itself
        raise usual
    if any(count_not_finite(tensor) for tensor in named_tensors(usual.module).values()):
        return usual  # its weights are the reason
    raise no_valid_integers(str(path), usual.inputs, unbounded)


def _first_built(
    given: Graph, candidates: Iterable[tuple[ModelInput, ...]], path: Path, session: OpenSession
) -> _Built | CompressorError:
    """The module for the first inputs on which it runs; else why it does not run on the very first."""
    failure: CompressorError | None = None
    for inputs in candidates:
        built = _built(given, inputs, path, session)
        if isinstance(built, _Built):
            return built
        failure = failure or built
    assert failure is not None, "there is a candidate"
    return failure


def _answers_are_finite(built: _Built, unbounded: frozenset[str]) -> bool:
    return has_finite_answers(built.session, built.module, built.inputs, unbounded)


def _built(given: Graph, inputs: tuple[ModelInput, ...], path: Path, session: OpenSession) -> _Built | CompressorError:
    """Build the module, and run the file. The module runs first: it refuses results that are too large."""
    spec = ModelSpec(str(path), inputs)
    try:
        graph, module = _with_branches(path, given, spec)
        opened = session(path)
        run_session(opened, module.arranged_for_file(spec_inputs(spec, 1)))
    except ModelError as error:
        if error.code != NODE_FAILS:
            raise
        return error
    except CannotRun as error:
        problem = f"ONNX Runtime cannot run it ({str(error)[:300]})"
        hint = "set model.input to the shapes that it expects"
        return ModelError("onnx-model/cannot-run", str(path), problem, hint)
    return _Built(graph, module, inputs, opened)


def _with_branches(path: Path, graph: Graph, spec: ModelSpec) -> tuple[Graph, ImportedModule]:
    """Build the module, with the branches of Ifs whose conditions follow from the sizes of the inputs."""
    while True:
        try:
            return graph, build_from_graph(graph, spec)
        except BranchKnown as known:
            graph = read_graph(path, (*graph.branches, *known.branches))


def _batching(module: ImportedModule, spec: ModelSpec, free: bool) -> Mapping[str, object]:
    """Whether two samples together answer as each alone; where they do not, they run one after the other.

    Where the batch is `free` in the file, two samples together mean what they mean in the file.
    """
    if all(dim is None for dim in spec.batch_dims):
        return {}
    two = spec_inputs(spec, 2)
    try:
        with torch.no_grad():
            together = tree_leaves(module(*two))
            if free:
                return {}
            module.samples_apart = True
            alone = tree_leaves(module(*two))
    except Exception:  # a graph for one sample may raise anything for two
        return {SAMPLES_APART: True}
    finally:
        module.samples_apart = False
    same = all(is_close(one, other, RELATIVE_TOLERANCE) for one, other in zip(together, alone, strict=True))
    return {} if same else {SAMPLES_APART: True}


def _classes(module: ImportedModule, spec: ModelSpec) -> int | None:
    """The number of classes, where the file has one output (B, classes) for one image."""
    if spec.image is None or len(module.outputs) != 1:
        return None
    with torch.no_grad():
        output = module(*spec_inputs(spec, 1))
    return output.shape[1] if output.ndim == 2 and 1 < output.shape[1] <= MAX_CLASSES else None


def _require_parity(path: Path, graph: Graph, model: LoadedModel, session: onnxruntime.InferenceSession) -> str:
    """Compare ONNX Runtime's answers to the file with the module's, and name the first node that differs."""
    assert isinstance(model.module, ImportedModule), "the module that build made"
    batches = [spec_inputs(model.spec, 1), example_inputs(model, 1, seed=1)]
    if takes_batches(session, model.module, model.spec):
        batches.append(example_inputs(model, 2, seed=2))
    try:
        parity = check_parity(path, model.module, batches)
    except CannotRun as error:
        problem = f"the imported module cannot be compared with the file: {error}"
        raise _differs(path, problem) from None
    if not parity.ok:
        place = first_difference(path, graph, model.module, batches[0])
        problem = f"the imported module's {parity.compared} differ from the file's by {parity.max_abs_error:.1e}{place}"
        raise _differs(path, problem)
    return f"module and file agree: {parity.compared} differ by {parity.max_abs_error:.1e} at most"


def takes_batches(session: onnxruntime.InferenceSession, module: ImportedModule, spec: ModelSpec) -> bool:
    """Return whether the file runs with two samples.

    Args:
        session: The file.
        module: The module that was built of it.
        spec: The model's inputs.
    """
    if all(dim is None for dim in module.batch_dims):
        return False
    fixed = any(
        dim is not None and isinstance(node.shape[dim], int) and node.shape[dim] > 0
        for node, dim in zip(session.get_inputs(), module.batch_dims, strict=True)
    )
    if fixed:
        return False
    try:
        run_session(session, module.arranged_for_file(spec_inputs(spec, 2)))
    except CannotRun:
        return False
    return True


def _differs(path: Path, problem: str) -> ModelError:
    hint = "report this file; the model's PyTorch code can be compressed instead"
    return ModelError("onnx-model/import-differs", str(path), problem, hint)


def _words(inputs: Sequence[ModelInput]) -> str:
    shapes = [f"{one.name} {'x'.join(map(str, one.shape)) or 'scalar'}" for one in inputs]
    entries = sum(math.prod(one.shape) for one in inputs)
    return f"input {', '.join(shapes)}" + ("" if entries else " (empty)")
