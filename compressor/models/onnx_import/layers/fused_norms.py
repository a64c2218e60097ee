"""LayerNorm and GroupNorm that the file writes out in primitive operators (see fusions.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from compressor.models.onnx_import.fusions import Fusion
from compressor.models.onnx_import.graph_editor import GraphEditor
from compressor.models.onnx_import.layers.base import Built, LayerKind, Operands, SharedWeights, like_vector
from compressor.models.onnx_import.links import Links
from compressor.models.onnx_import.node import Node
from compressor.models.onnx_import.values import HostArray


class WrittenOut(LayerKind):
    """A normalization of several nodes, of which the first Mul and Add after it hold its parameters."""

    def build(self, operands: Operands) -> Built | None:
        return None  # no operator has this name; build_graph.py calls `fused_layer`

    def write(self, module: nn.Module, nodes: Sequence[int], editor: GraphEditor) -> None:
        """Put the weights of a layer back, as `LayerKind.write` does.

        Args:
            module: The layer.
            nodes: The nodes that it stands for.
            editor: Changes the file.
        """
        if isinstance(module, nn.GroupNorm) and module.num_channels != module.given_channels:
            split, norm, back = module.reshapes  # type: ignore[misc]
            groups = module.num_groups
            editor.set_numbers(split, 1, (0, groups, -1))
            editor.set_input(norm, 1, torch.ones(groups))
            editor.set_input(norm, 2, torch.zeros(groups))
            editor.reshape_like(back, editor.node(split).input[0])
        for name, (index, position, shape) in module.constants_at.items():  # type: ignore[union-attr, operator]
            editor.set_input(index, position, like_vector(module.get_parameter(name), shape))


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
    constants_at = {}
    for tensor, name, place in zip(("weight", "bias"), names, (fusion.scale, fusion.shift), strict=True):
        if name is not None and place is not None:
            constants_at[tensor] = (*place, constants[name].shape)
            setattr(layer, tensor, shared.parameter((name, "flat", fusion.output), constants[name].reshape(-1)))
    layer.constants_at = constants_at  # type: ignore[assignment]
    if isinstance(layer, nn.GroupNorm):
        layer.reshapes, layer.given_channels = fusion.nodes[:3], shape[1]  # type: ignore[assignment]
    places = [place[0] for place in (fusion.scale, fusion.shift) if place is not None]
    return Built(layer, (fusion.input,), (fusion.output,), names[0] or "", tuple(places))


def _constant(place: tuple[int, int] | None, nodes: Sequence[Node]) -> str | None:
    return None if place is None else nodes[place[0]].inputs[place[1]]


LAYERS: dict[str, LayerKind] = {"written-out normalization": WrittenOut()}
