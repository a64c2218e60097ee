"""Where the time goes: operators of two models, profiled in a pass of their own, gathered by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from compressor.bench.device.protocol import NodeTime
from compressor.bench.device.session import Device
from compressor.core import LAYOUT_COPIES, LayerTime

FUSED = {"BatchNormalization", "Relu", "Clip", "Add", "Sigmoid", "LeakyRelu", "HardSigmoid", "HardSwish", "Tanh", "Mul"}
"""What ONNX Runtime fuses into the convolution or product before it."""

COPIES = {"ReorderInput", "ReorderOutput", "Transpose", "MemcpyFromHost", "MemcpyToHost", "Cast"}
PASSES = 2  # of each model, in mirrored order; the faster one of each operator counts
GRAPH_SUFFIXES = ("_nchwc", "_token")  # what ONNX Runtime's optimiser appends to names


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """Operators that are counted together; `op` is that of the first."""

    op: str
    us: float = 0.0
    bytes: int = 0

    def plus(self, node: NodeTime) -> OperatorRow:
        return OperatorRow(self.op, self.us + node.us, self.bytes + node.bytes)


NOTHING = OperatorRow("")


def time_by_layer(device: Device, a: Path, b: Path, *, batch: int, seconds: float) -> tuple[LayerTime, ...]:
    """Time of each layer in `a` and in `b`, in the order of `a`: layers with weights by name, the others by operator.

    A neighbour can only make an operator slower, so of two passes the faster one counts. Profiling itself costs time:
    the sum is more than the model's latency. Raises what `Device.run` does.
    """
    passes: dict[Path, list[list[NodeTime]]] = {a: [], b: []}
    for number in range(PASSES):
        for path in (a, b) if number % 2 == 0 else (b, a):
            passes[path].append(device.profile(path, batch=batch, seconds=seconds))
    before, after = (rows_by_layer(fastest(passes[path]), layers_of(path)) for path in (a, b))
    return tuple(
        LayerTime(
            name=name,
            op=before.get(name, after.get(name, NOTHING)).op,
            before_us=before[name].us if name in before else None,
            after_us=after[name].us if name in after else None,
            before_bytes=before.get(name, NOTHING).bytes,
            after_bytes=after.get(name, NOTHING).bytes,
        )
        for name in dict.fromkeys((*before, *after))
    )


def fastest(passes: list[list[NodeTime]]) -> list[NodeTime]:
    """Of each operator the pass it was fastest in; passes of one model hold the same operators."""
    best: dict[str, NodeTime] = {}
    for node in (each for found in passes for each in found):
        if node.name not in best or node.us < best[node.name].us:
            best[node.name] = node
    return list(best.values())


def rows_by_layer(nodes: Iterable[NodeTime], layers: Mapping[str, str]) -> dict[str, OperatorRow]:
    """Operators with weights under their layer; copies under one name; the others under their operator's."""
    rows: dict[str, OperatorRow] = {}
    for node in nodes:
        layer = layers.get(plain_name(node.name)) if node.op not in FUSED else None
        name = LAYOUT_COPIES if node.op in COPIES else layer or f"all {node.op}"
        rows[name] = rows.get(name, OperatorRow(node.op)).plus(node)
    return rows


def plain_name(name: str) -> str:
    for suffix in GRAPH_SUFFIXES:
        name = name.partition(suffix)[0]
    return name


def layers_of(path: Path) -> dict[str, str]:
    """Names the runtime may give a layer's operator -> the layer, known by its weight's name.

    The runtime names what it has fused after the first operator or after the last one's output, so all operators from
    the weight's on are the layer's, as long as each feeds on the one before and has no matrix of its own.
    """
    return _layers(onnx.load(str(path), load_external_data=False))


def _layers(model: ModelProto) -> dict[str, str]:
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) >= 2}
    owner: dict[str, str] = {}  # tensor or operator -> layer
    for node in model.graph.node:
        matrix = next((name for name in node.input[1:] if name in weights), None)
        if matrix is not None:
            layer = matrix.rpartition(".")[0] or matrix
        elif node.op_type in FUSED and node.input and node.input[0] in owner:
            layer = owner[node.input[0]]
        else:
            continue
        owner.update(dict.fromkeys((node.name, *node.output), layer))
    return owner
