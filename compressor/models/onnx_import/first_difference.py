"""Find the first node of a file whose result the imported module computes differently."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from compressor.execution.differences import is_close
from compressor.export.parity import CannotRun, open_session, run_session
from compressor.models.onnx_import.imported_module import ImportedModule
from compressor.models.onnx_import.read_graph import Graph, read_model

RELATIVE_TOLERANCE = 1e-3


def first_difference(path: Path, graph: Graph, module: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Compare the value of every node.

    Args:
        path: The file.
        graph: The file's graph.
        module: The imported module.
        inputs: One sample of each input.

    Returns:
        `; the first that differs is node NAME (OP)`, or nothing where the values cannot be compared.
    """
    assert isinstance(module, ImportedModule), "the module that build made"
    model = read_model(path, graph.branches)
    names = [name for node in graph.nodes for name in node.outputs if name]
    own = {value.name for value in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in own)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "values.onnx"
        try:
            onnx.save(model, draft)
            session = open_session(draft)
            order = [output.name for output in session.get_outputs()]
            values = dict(zip(order, run_session(session, module.arranged_for_file(inputs)), strict=True))
        except (CannotRun, ValueError):  # more than 2 GB, or the values of a node cannot be outputs
            return ""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    with torch.no_grad():
        for step, results in module.intermediate(*inputs):
            for name, result in results.items():
                if not isinstance(result, Tensor) or name not in values:
                    continue
                if not is_close(result, torch.as_tensor(values[name]), RELATIVE_TOLERANCE):
                    node = makers[name]
                    return f"; the first that differs is node {node.name} ({node.kind})"
            del step
    return ""
