"""Changes to an exported ONNX model before it is saved."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

import numpy as np
import onnx_ir as ir

KEPT_METADATA = "pkg.torch.onnx.name_scopes"  # the module that a node came from
ALMOST_ZERO = np.finfo(np.float32).tiny  # 1.2e-38, far below the resolution of float32 activations


def set_metadata(model: ir.Model, metadata: Mapping[str, str]) -> None:
    """Replace the exporter's metadata, except the names of modules: its stack traces contain local paths.

    Args:
        model: The model, which is changed.
        metadata: The new metadata.
    """
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        scopes = node.metadata_props.get(KEPT_METADATA)
        node.metadata_props.clear()
        node.doc_string = None
        if scopes:
            node.metadata_props[KEPT_METADATA] = scopes


def register_constants(model: ir.Model) -> None:
    """Store every constant that a node reads, each under a name of its own.

    onnxscript's optimizer names the constants of two fused Clips after the value that both read, and then stores only
    the second ones.

    Args:
        model: The model, which is changed.
    """
    initializers = model.graph.initializers
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is None or value.const_value is None or value.producer() is not None or value.is_initializer():
                continue
            number = next(number for number in count(1) if f"{value.name}_{number}" not in initializers)
            value.name = f"{value.name}_{number}"
            model.graph.register_initializer(value)


def index_by_int64(model: ir.Model) -> None:
    """Let every ScatterND and GatherND take its indices as int64, the one type that it has.

    torch's exporter passes the int32 on that the code indexes by, as torch.istft does.

    Args:
        model: The model, which is changed.
    """
    for node in list(model.graph.all_nodes()):
        indices = node.inputs[1] if node.op_type in ("ScatterND", "GatherND") else None
        if indices is not None and indices.dtype == ir.DataType.INT32 and node.graph is not None:
            cast = ir.node("Cast", [indices], {"to": ir.DataType.INT64})
            node.graph.insert_before(node, cast)
            node.replace_input_with(1, cast.outputs[0])


def keep_zero_padding(model: ir.Model) -> None:
    """Let every Pad with zeros before a MaxPool pad with a number that is almost zero.

    ONNX Runtime's optimizer fuses a Pad with exact zeros into the MaxPool, whose padding counts as minus infinity: the
    maximum of a window with negative values becomes negative instead of 0. Networks that pool before their first
    activation (BiT) would compute wrong outputs.
    """
    almost: ir.Value | None = None
    for node in list(model.graph):
        if node.op_type != "Pad" or not _pads_zeros(node):
            continue
        if any(user.op_type == "MaxPool" for user in node.outputs[0].consumers()):
            almost = almost or _almost_zero(model)
            node.resize_inputs(max(3, len(node.inputs)))
            zero = node.inputs[2]
            node.replace_input_with(2, almost)
            if zero is not None and zero.name is not None and not zero.uses():
                model.graph.initializers.pop(zero.name, None)


def _almost_zero(model: ir.Model) -> ir.Value:
    value = ir.Value(name="almost_zero", const_value=ir.tensor(np.float32(ALMOST_ZERO), name="almost_zero"))
    model.graph.register_initializer(value)
    return value


def _pads_zeros(node: ir.Node) -> bool:
    mode = node.attributes.get("mode")
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is not None and mode.as_string() != "constant":
        return False
    return value is None or (value.const_value is not None and not value.const_value.numpy().any())
