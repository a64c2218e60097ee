"""Zeros around a maximum stay zeros: keeps ONNX Runtime from taking them for the pooling's own padding.

Its optimizer moves a Pad of zeros into the MaxPool behind it, whose padding counts as minus infinity: where all of a
window is negative, the maximum with the zeros is 0 and becomes a negative number. Networks that pool before their
first activation (BiT) answer wrongly then. The optimizer looks for exact zeros.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

ALMOST_ZERO = np.finfo(np.float32).tiny  # 1.2e-38, far below what float32 arithmetic on activations resolves


def keep_zeros(model: ir.Model) -> None:
    """Give every Pad of zeros in front of a MaxPool a value that is not quite zero."""
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
