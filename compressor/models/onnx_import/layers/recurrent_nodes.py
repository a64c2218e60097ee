"""LSTM, GRU and RNN nodes as PyTorch's layers. The order of the gates differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.models.onnx_import.graph_editor import GraphEditor
from compressor.models.onnx_import.layers.base import Built, LayerKind, Operands
from compressor.models.onnx_import.node import Node, unsupported
from compressor.models.onnx_import.values import HostArray, Value, is_host

GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""ONNX's gate for each of PyTorch's: LSTM iofc -> ifgo, GRU zrh -> rzn."""
ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
LAYER_TYPES: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Recurrent(nn.Module):
    """A recurrent layer with the layout of ONNX: x (T, B, I) -> Y (T, D, B, H), Y_h (D, B, H), Y_c (D, B, H)."""

    def __init__(self, layer: nn.RNNBase, directions: int, *, backwards: bool, batch_first: bool) -> None:
        super().__init__()
        self.layer, self.directions, self.backwards, self.batch_first = layer, directions, backwards, batch_first
        self.starts_at_zero = True

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        x = x.transpose(0, 1) if self.batch_first else x
        x = x.flip(0) if self.backwards else x
        start: Any = None
        if states:
            first = tuple(state.transpose(0, 1) if self.batch_first else state for state in states)
            start = first if isinstance(self.layer, nn.LSTM) else first[0]
        out, last = self.layer(x, start)
        out = out.flip(0) if self.backwards else out
        out = out.reshape(*out.shape[:2], self.directions, -1).transpose(1, 2)
        ends = last if isinstance(last, tuple) else (last,)
        if self.batch_first:
            return out.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends)
        return out, *ends


class RecurrentKind(LayerKind):
    """LSTM, GRU or RNN with constant weights."""

    def build(self, operands: Operands) -> Built | None:
        node = operands.node
        if not operands.has(1, 2) or not (operands.absent(3) or operands.has(3)):
            raise unsupported(node, "its weights are no constants of the file")
        _check(node, operands)
        matrix, recurrent = operands.constants[1], operands.constants[2]
        directions, hidden, inputs = matrix.shape[0], recurrent.shape[2], matrix.shape[2]
        settings: dict[str, Any] = {"bias": not operands.absent(3), "bidirectional": directions == 2}
        if node.op == "RNN":
            settings["nonlinearity"] = (node.get("activations") or ("Tanh",))[0].lower()
        layer = LAYER_TYPES[node.op](inputs, hidden, **settings)
        gates, own = GATES[node.op], {}
        for direction in range(directions):
            end = "_reverse" if direction else ""
            own[f"weight_ih_l0{end}"] = _ordered(matrix[direction], gates)
            own[f"weight_hh_l0{end}"] = _ordered(recurrent[direction], gates)
            if not operands.absent(3):
                first, second = np.split(operands.constants[3][direction], 2)
                own[f"bias_ih_l0{end}"], own[f"bias_hh_l0{end}"] = _ordered(first, gates), _ordered(second, gates)
        layer.load_state_dict({name: torch.from_numpy(np.array(array, np.float32)) for name, array in own.items()})
        backwards, batch_first = node.get("direction", "forward") == "reverse", bool(node.get("layout", 0))
        module = Recurrent(layer, directions, backwards=backwards, batch_first=batch_first)
        module.starts_at_zero = all(_is_zero(operands, at) for at in (5, 6))
        states = () if module.starts_at_zero else tuple(name for name in node.inputs[5:7] if name)
        return Built(module, (node.inputs[0], *states), node.outputs, node.inputs[1])

    def write(self, module: nn.Module, nodes: Sequence[int], editor: GraphEditor) -> None:
        """Put the weights of a layer back, as `LayerKind.write` does.

        Args:
            module: The layer.
            nodes: The nodes that it stands for.
            editor: Changes the file.
        """
        layer, directions = module.layer, module.directions
        assert isinstance(layer, nn.RNNBase) and isinstance(directions, int), "the layer that build made"
        ends = ("", "_reverse")[:directions]
        gates = np.argsort(GATES[layer.mode.partition("_")[0]]).tolist()

        def stacked(name: str) -> Tensor:
            return torch.stack([_reordered(getattr(layer, f"{name}_l0{end}"), gates) for end in ends])

        for index in nodes:
            editor.set_input(index, 1, stacked("weight_ih"))
            editor.set_input(index, 2, stacked("weight_hh"))
            if layer.bias:
                editor.set_input(index, 3, torch.cat([stacked("bias_ih"), stacked("bias_hh")], 1))
            editor.set_attribute(index, "hidden_size", layer.hidden_size)
            if module.starts_at_zero:  # the default, whatever the width
                del editor.node(index).input[5:]


def _check(node: Node, operands: Operands) -> None:
    """Refuse what PyTorch's layers do not do."""
    activations = tuple(name.lower() for name in node.get("activations", ()))
    usual, directions = ACTIVATIONS[node.op], operands.constants[1].shape[0]
    if activations and activations != usual * directions and not (node.op == "RNN" and set(activations) == {"relu"}):
        raise unsupported(node, f"its activations are {', '.join(activations)}")
    if node.op == "GRU" and not node.get("linear_before_reset", 0):
        raise unsupported(node, "it multiplies with the reset gate before the product (linear_before_reset = 0)")
    if node.get("clip") or node.get("input_forget"):
        raise unsupported(node, "it clips, or couples its gates")
    if not operands.absent(7):
        raise unsupported(node, "it has peepholes")
    lengths = operands.examples[4] if len(operands.examples) > 4 else None
    steps = operands.shape(0)[1 if node.get("layout", 0) else 0]
    if lengths is not None and any(int(length) != steps for length in lengths.reshape(-1).tolist()):
        raise unsupported(node, "its sequences have different lengths")


def _is_zero(operands: Operands, position: int) -> bool:
    """Whether a first state is absent, or zeros that the file makes."""
    value: Value = operands.constants.get(position)
    if value is None and not operands.absent(position):
        value = operands.examples[position]
    return value is None or (is_host(value) and not value.any())


def _ordered(array: HostArray, gates: Sequence[int]) -> HostArray:
    parts = np.split(array, len(gates))
    return np.concatenate([parts[gate] for gate in gates])


def _reordered(tensor: Tensor, gates: Sequence[int]) -> Tensor:
    parts = tensor.detach().chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


LAYERS: dict[str, LayerKind] = {op: RecurrentKind() for op in GATES}
