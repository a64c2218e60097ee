"""LayerNorm and GroupNorm that the file writes out in primitive operators (see fusions.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from compressor.models.onnx_import.fusions import Fusion
from compressor.models.onnx_import.layers.base import Built, Editor, LayerKind, Operands, SharedWeights, like_vector
from compressor.models.onnx_import.links import Links
from compressor.models.onnx_import.node import Node
from compressor.models.onnx_import.values import HostArray


class WrittenOut(LayerKind):
    """A normalization of several nodes, of which the first Mul and Add after it hold its parameters."""

    def build(self, operands: Operands) -> Built | None:
        return None  # no operator has this name; build_graph.py calls `fused_layer`

    def write(self, module: nn.Module, nodes: Sequence[int], editor: Editor) -> None:
        """Put the weights of a layer back, as `LayerKind.write` does.

        Args:
            module: The layer.
            nodes: The nodes that it stands for.
            editor: Changes the file.
        """
        for index in nodes:
            tensor = module.get_parameter({"Mul": "weight", "Add": "bias"}[editor.node(index).op_type])
            position = 0 if editor.constant_shape(index, 0) is not None else 1
            editor.set_input(index, position, like_vector(tensor, editor.constant_shape(index, position)))


def fused_layer(
    fusion: Fusion, links: Links, constants: Mapping[str, HostArray], shape: Sequence[int], shared: SharedWeights
) -> Built:
    """Build the layer of a fusion.

    Args:
        fusion: The nodes.
        links: The graph.
        constants: Its constants.
        shape: Of the layer's input.
        shared: Parameters by constant.

    Returns:
        The layer.
    """
    names = [_constant(place, links.nodes) for place in (fusion.scale, fusion.shift)]
    layer: nn.Module
    if fusion.kind == "LayerNorm":
        layer = nn.LayerNorm(
            shape[-1], fusion.epsilon, elementwise_affine=fusion.scale is not None, bias=bool(names[1])
        )
    else:
        layer = nn.GroupNorm(fusion.groups, shape[1], fusion.epsilon, affine=fusion.scale is not None)
    for tensor, name in zip(("weight", "bias"), names, strict=True):
        if name is not None:
            setattr(layer, tensor, shared.parameter((name, "flat"), constants[name].reshape(-1)))
    places = [place[0] for place in (fusion.scale, fusion.shift) if place is not None]
    return Built(layer, (fusion.input,), (fusion.output,), names[0] or "", tuple(places))


def _constant(place: tuple[int, int] | None, nodes: Sequence[Node]) -> str | None:
    return None if place is None else nodes[place[0]].inputs[place[1]]


LAYERS: dict[str, LayerKind] = {"written-out normalization": WrittenOut()}
