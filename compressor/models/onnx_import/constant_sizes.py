"""Sizes that a graph computes, but that are the same for every input: a head's width as `Shape`, `Gather`, `Div` of it.

Surgery may treat them as sizes that the file fixes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

LARGE = 1024  # entries of a constant that is no size
MAX_INTEGER = 2**31 - 1  # a Slice up to it goes to the end


def constant_sizes(model: ModelProto) -> Mapping[str, tuple[int | None, ...]]:
    """Find the sizes of the results of Reshapes that no free size of the inputs decides, and no batch.

    Args:
        model: The graph. It is not changed.

    Returns:
        Result -> its sizes; None for those that follow from the inputs. Left out is what lies behind operators that
        ONNX Runtime's symbolic inference does not know, and everything in graphs that compute no such sizes.
    """
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    reshapes = [node for node in model.graph.node if node.op_type == "Reshape"]
    if all(makers.get(node.input[1], "Constant") == "Constant" for node in reshapes):
        return {}
    shapes = _Inference().shapes(_with_free_batch(model))
    return {node.output[0]: shapes[node.output[0]] for node in reshapes if node.output[0] in shapes}


class _Inference(SymbolicShapeInference):  # type: ignore[misc]  # ONNX Runtime leaves it unannotated
    """Its own entry point writes a file where it does not come to the end."""

    def __init__(self) -> None:
        super().__init__(MAX_INTEGER, auto_merge=False, guess_output_rank=False, verbose=0)

    def _try_get_value(self, node: NodeProto, index: int) -> Any:
        """The values of an input, where they are known: those of large weights are not there."""
        tensor = self.initializers_.get(node.input[index]) if index < len(node.input) else None
        is_large = tensor is not None and math.prod(tensor.dims) > LARGE
        return None if is_large else super()._try_get_value(node, index)

    def shapes(self, model: ModelProto) -> dict[str, tuple[int | None, ...]]:
        """Find the sizes of values, as far as it comes."""
        logging.disable(logging.ERROR)
        try:
            self._preprocess(model)
            while self.run_:
                self._infer_impl()
        except Exception:  # whatever an unknown operator makes it raise
            pass
        finally:
            logging.disable(logging.NOTSET)
        return {
            name: tuple(dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim)
            for name, value in self.known_vi_.items()
            if value.type.tensor_type.HasField("shape")
        }


def _with_free_batch(model: ModelProto) -> ModelProto:
    """A copy whose inputs' first dimensions have names for sizes, without the values of its weights."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for tensor in copy.graph.initializer:
        if math.prod(tensor.dims) > LARGE:
            tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
    weights = {tensor.name for tensor in copy.graph.initializer}
    for value in copy.graph.input:
        for dim in value.type.tensor_type.shape.dim[:1] if value.name not in weights else ():
            dim.dim_param = dim.dim_param or f"{value.name}_0"
    return copy
