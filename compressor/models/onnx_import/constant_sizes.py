"""Sizes that a graph computes, but that are the same for every input: a head's width as `Shape`, `Gather`, `Div` of it.

Surgery may treat them as sizes that the file fixes.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from compressor.silence import silent_logging

LARGE = 1024  # entries of a constant that is no size
MAX_INTEGER = 2**31 - 1  # a Slice up to it goes to the end


def constant_sizes(model: ModelProto) -> Mapping[str, tuple[int | None, ...]]:
    """Find the sizes of Reshape results that are the same for every batch and every free size of the inputs.

    Args:
        model: The graph. It is not changed.

    Returns:
        Result -> its sizes; None for those that follow from the inputs. Results behind operators that ONNX Runtime's
        symbolic inference does not know are left out. Graphs that compute no such sizes give an empty mapping.
    """
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    reshapes = [node for node in model.graph.node if node.op_type == "Reshape"]
    if all(makers.get(node.input[1], "Constant") == "Constant" for node in reshapes):
        return {}
    shapes = _Inference().shapes(_with_free_batch(model))
    return {node.output[0]: shapes[node.output[0]] for node in reshapes if node.output[0] in shapes}


class _Inference(SymbolicShapeInference):  # type: ignore[misc]  # ONNX Runtime leaves it unannotated
    """ONNX Runtime's inference, step by step: its own `infer_shapes` writes a file when it fails."""

    def __init__(self) -> None:
        super().__init__(MAX_INTEGER, auto_merge=False, guess_output_rank=False, verbose=0)

    def _try_get_value(self, node: NodeProto, index: int) -> Any:
        """The known values of an input; None for large weights, whose values `_with_free_batch` leaves out."""
        tensor = self.initializers_.get(node.input[index]) if index < len(node.input) else None
        is_large = tensor is not None and math.prod(tensor.dims) > LARGE
        return None if is_large else super()._try_get_value(node, index)

    def shapes(self, model: ModelProto) -> dict[str, tuple[int | None, ...]]:
        """Find the sizes of values up to the first operator that is unknown."""
        with silent_logging(logging.ERROR), contextlib.suppress(Exception):  # which an unknown operator raises
            self._preprocess(model)
            while self.run_:
                self._infer_impl()
        return {
            name: tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)
            for name, value in self.known_vi_.items()
            if value.type.tensor_type.HasField("shape")
        }


def _with_free_batch(model: ModelProto) -> ModelProto:
    """A copy whose inputs' first dimensions have names for sizes, without the values of its weights."""
    given = model.graph
    copy = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    copy.graph.CopyFrom(GraphProto(name=given.name, node=given.node, input=given.input, output=given.output))
    for tensor in given.initializer:
        is_large = math.prod(tensor.dims) > LARGE
        empty = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        copy.graph.initializer.append(empty if is_large else tensor)
    weights = {tensor.name for tensor in copy.graph.initializer}
    for value in copy.graph.input:
        for dim in value.type.tensor_type.shape.dim[:1] if value.name not in weights else ():
            dim.dim_param = dim.dim_param or f"{value.name}_0"
    return copy
