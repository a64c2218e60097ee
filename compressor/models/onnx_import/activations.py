"""Activations of an imported graph: when they are freed, and which are too large to compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from compressor.errors import CompressorError
from compressor.execution.copies import copy_without_values
from compressor.models.onnx_import.imported_module import NodeCall
from compressor.models.onnx_import.node import Node, unsupported
from compressor.models.onnx_import.values import Value

MAX_BYTES = 2**33  # of one activation


def refuse_large(node: Node, module: nn.Module, arguments: Sequence[Value]) -> None:
    """Refuse a result that would not fit in memory, before it is computed.

    Args:
        node: The node, which the message names.
        module: What computes it.
        arguments: Its inputs.

    Raises:
        ModelError: The result is larger than MAX_BYTES.
    """
    try:
        on_meta = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), list(arguments))
        shapes_only = copy_without_values(module) if any(True for _ in module.parameters()) else module
        results = shapes_only(*on_meta)
    except CompressorError:
        raise
    except Exception:  # the shape depends on values, or the arguments are impossible, which the run itself tells
        return
    for result in tree_leaves(results):
        if isinstance(result, Tensor) and result.numel() * result.element_size() > MAX_BYTES:
            gigabytes = result.numel() * result.element_size() / 2**30
            raise unsupported(node, f"its result takes {gigabytes:,.0f} GiB")


def with_last_uses(steps: Sequence[NodeCall], outputs: Sequence[str], inputs: Sequence[str]) -> tuple[NodeCall, ...]:
    """Note with each step which values no later one reads, so that they are freed.

    Args:
        steps: The steps in their order.
        outputs: Names of the graph's outputs, which stay.
        inputs: Names of its inputs.

    Returns:
        The steps.
    """
    made = {name for step in steps for name in step.outputs} | set(inputs)
    seen, result = set(outputs), []
    for step in reversed(steps):
        names = [name for name in (*step.inputs, *step.outputs) if name in made and name not in seen]
        seen |= set(names)
        result.append(replace(step, last_use=tuple(dict.fromkeys(names))))
    return tuple(reversed(result))
